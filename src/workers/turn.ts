import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2'
import type { ModelMessage } from 'ai'
import type { StepRecord, TurnFailure, Usage } from './protocol.ts'

/** What happens during a turn, as it happens. Handlers must not throw or block; they are called in order. */
export interface TurnHandlers {
  onDelta(text: string): void
  onTool(event: { name: string; phase: 'start' | 'end'; summary: string }): void
  /** The worker is alive, though it has nothing to say. */
  onBeat(): void
  /** False while more of this turn waits here than may; its worker is held back until it is true again. */
  hasRoom?(): boolean
}

/**
 * How a turn ended. `lost` means that the worker did not live to tell: the code is `worker_crashed`,
 * `worker_start_failed`, `worker_silent`, `worker_out_of_memory` or `gateway_stopping`. `usage` counts what is known:
 * where the worker was lost or cancelled, its saved steps.
 */
export interface TurnEnd {
  status: 'completed' | 'failed' | 'cancelled' | 'lost'
  usage: Usage
  error?: TurnFailure
}

export interface RunRef {
  runId: string
  fence: number
}

/** What workers ask of the gateway; every call names run and fence, and both are those of the running turn. */
export interface WorkerRequests {
  /** Resolves when the step is durable, or with `stale` when the run has passed to someone else: the worker aborts. */
  saveStep(step: StepRecord): Promise<'saved' | 'stale'>
  takeSteer(run: RunRef): Promise<ModelMessage[]>
  /**
   * Answers any request to `/model/{provider}/{path}`. `path` begins with a slash and keeps its query. It must answer,
   * and must stop the call upstream when `res` closes before it was ended (`!res.writableEnded`).
   */
  model(
    req: Http2ServerRequest,
    res: Http2ServerResponse,
    args: {
      provider: string
      path: string
      run: RunRef & { provider: string; about: Record<string, string> }
      /** What the worker sent along; well-formed, and no more than that. */
      traceparent: string | undefined
    },
  ): void
}

/** Reasons for which a turn is lost, as the user may read them. Another attempt may always succeed. */
export const LOSSES = {
  worker_crashed: 'The worker of this conversation ended unexpectedly.',
  worker_start_failed: 'No worker could be started for this conversation.',
  worker_silent: 'The worker of this conversation stopped responding.',
  worker_out_of_memory: 'The worker of this conversation ran out of memory.',
  gateway_stopping: 'The gateway is stopping.',
} as const

export type LossCode = keyof typeof LOSSES

/** The end of a turn whose worker is gone. */
export function lostTurn(code: LossCode, usage: Usage): TurnEnd {
  return { status: 'lost', usage, error: { code, message: LOSSES[code], retryable: true } }
}
