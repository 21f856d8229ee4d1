import { traceIdOf } from '../lib/traceparent.ts'
import type { ClaimedRun } from '../queue/runs.ts'
import { inSpan, type Span, type Tracer } from '../telemetry/tracer.ts'
import type { StepRecord } from './protocol.ts'
import type { TurnHandlers } from './turn.ts'

/** How a model call ended, as far as the gateway sees it. */
export interface ModelCallEnd {
  status: number
  aborted: boolean
  error: string | undefined
}

/**
 * One attempt of a run as spans:
 *
 *   run ─┬─ load
 *        ├─ turn ─┬─ chat <model>          one for each model call; its tokens are known once the step is saved
 *        │        ├─ execute_tool <name>
 *        │        └─ save step
 *        └─ conclude
 *
 * The worker has no exporter and no network: it is told the `traceparent` of its turn, sends it along with its requests, and
 * what it does is seen by these and its reports. Names and attributes of models and tools are those of OpenTelemetry:
 * https://opentelemetry.io/docs/specs/semconv/gen-ai/
 */
export interface TurnTrace {
  /** Of the attempt: for what it leaves behind in rows. Null when nothing is recorded. */
  readonly traceparent: string | null
  /** A part of the attempt. */
  phase<T>(name: 'load' | 'conclude', work: () => Promise<T>): Promise<T>
  /** The worker takes over, with this model. Returns the `traceparent` that it is told. */
  turnBegins(model: { provider: string; modelId: string }): string | undefined
  tool(event: { name: string; phase: 'start' | 'end' }): void
  /** @param parent what the worker sent along. */
  modelCall(parent: string | undefined): (end: ModelCallEnd) => void
  saveStep(step: StepRecord, save: () => Promise<'saved' | 'stale'>): Promise<'saved' | 'stale'>
  turnEnds(end: { status: string; error?: { code: string } | undefined }): void
  end(outcome: string): void
}

/** Tools of one step that run at the same time under one name; more are not recorded. */
const TOOLS_MAX = 64

const NO_TRACE: TurnTrace = {
  traceparent: null,
  phase: (_name, work) => work(),
  turnBegins: () => undefined,
  tool() {},
  modelCall: () => () => {},
  saveStep: (_step, save) => save(),
  turnEnds() {},
  end() {},
}

export function createTurnTrace(tracer: Tracer, run: ClaimedRun, { replica }: { replica: string }): TurnTrace {
  if (!tracer.enabled) return NO_TRACE
  const span = tracer.start('run', { parent: run.traceparent, kind: 'consumer', attributes: describeRun(run, replica) })
  const tools = new Map<string, Span[]>()
  let turn: Span | undefined
  let model: Record<string, string> = {}
  /** A call that is over, but for its tokens. */
  let answered: { span: Span; endedAt: number } | undefined

  function settleCall(step?: StepRecord) {
    if (!answered) return
    if (step) {
      answered.span.set({
        'gen_ai.usage.input_tokens': step.usage.inputTokens,
        'gen_ai.usage.output_tokens': step.usage.outputTokens,
        'gen_ai.usage.cache_read.input_tokens': step.usage.cachedInputTokens,
      })
    }
    answered.span.end(answered.endedAt)
    answered = undefined
  }

  function turnEnds(end: Parameters<TurnTrace['turnEnds']>[0]) {
    settleCall()
    for (const one of [...tools.values()].flat()) {
      one.fail('the turn ended before it did')
      one.end()
    }
    tools.clear()
    turn?.set({ 'lobu.turn.status': end.status, 'error.type': end.error?.code })
    if (end.error) turn?.fail(end.error.code)
    turn?.end()
    turn = undefined
  }

  return {
    traceparent: span.traceparent ?? null,
    phase: (name, work) => inSpan(tracer, { name, parent: span.traceparent }, work),
    turnBegins({ provider, modelId }) {
      model = { 'gen_ai.provider.name': provider, 'gen_ai.request.model': modelId }
      turn = tracer.start('turn', { parent: span.traceparent, attributes: model })
      return turn.traceparent
    },
    tool({ name, phase }) {
      const open = tools.get(name) ?? []
      if (phase === 'end') return open.shift()?.end()
      if (open.length >= TOOLS_MAX || tools.size >= TOOLS_MAX) return
      tools.set(name, open)
      const attributes = { 'gen_ai.operation.name': 'execute_tool', 'gen_ai.tool.name': name }
      open.push(tracer.start(`execute_tool ${name}`, { parent: turn?.traceparent, attributes }))
    },
    modelCall(parent) {
      settleCall()
      const attributes = { 'gen_ai.operation.name': 'chat', ...model }
      const within = traceIdOf(parent) === traceIdOf(span.traceparent) ? parent : (turn ?? span).traceparent
      const name = `chat ${model['gen_ai.request.model'] ?? ''}`.trimEnd()
      const call = tracer.start(name, { parent: within, kind: 'client', attributes })
      return ({ status, aborted, error }) => {
        call.set({ 'http.response.status_code': status, 'lobu.aborted': aborted || undefined })
        if (error !== undefined || status >= 400) call.fail(error)
        settleCall()
        answered = { span: call, endedAt: Date.now() }
        // Of a turn that is over no step will tell the tokens.
        if (!turn) settleCall()
      }
    },
    async saveStep(step, save) {
      settleCall(step)
      const attributes = { 'lobu.step': step.step }
      return inSpan(tracer, { name: 'save step', parent: turn?.traceparent, attributes }, save)
    },
    turnEnds,
    end(outcome) {
      turnEnds({ status: outcome })
      span.set({ 'lobu.run.outcome': outcome })
      if (outcome === 'failed' || outcome === 'retried') span.fail(outcome)
      span.end()
    },
  }
}

function describeRun(run: ClaimedRun, replica: string) {
  return {
    'messaging.operation.type': 'process',
    'messaging.destination.name': 'runs',
    'lobu.run.id': run.id,
    'lobu.organization.id': run.organizationId,
    'lobu.conversation.id': run.conversationId,
    'lobu.run.attempt': run.attempt,
    'lobu.run.fence': run.fence,
    'lobu.claim.waited_ms': Math.round(run.waitedMs ?? 0),
    'lobu.replica': replica,
  }
}

/** The same handlers, with each use of a tool in the trace. */
export function withTrace(handlers: TurnHandlers, trace: TurnTrace): TurnHandlers {
  return {
    ...handlers,
    onTool(event) {
      trace.tool(event)
      handlers.onTool(event)
    },
  }
}
