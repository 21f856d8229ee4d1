import { type ClientHttp2Session, connect } from 'node:http2'
import type { ModelMessage } from 'ai'
import {
  COMMAND_BYTES_MAX,
  type Command,
  createLineReader,
  FENCE_HEADER,
  type Report,
  RUN_HEADER,
  type SteerAnswer,
  type StepRecord,
  TRACE_HEADER,
} from '../protocol.ts'
import { createGatewayFetch } from './gateway-fetch.ts'
import { openGatewaySocket } from './gateway-socket.ts'

/** One stream may carry a megabyte before the other side must read; the whole connection eight. */
const STREAM_WINDOW_BYTES = 1024 * 1024
const SESSION_WINDOW_BYTES = 8 * 1024 * 1024

export interface RunRef {
  runId: string
  fence: number
}

/** What every request of a turn says of itself. */
export interface RunStamp extends RunRef {
  traceparent: string | undefined
}

/** The worker's only way out: its session with the gateway and requests to it. */
export interface GatewayLink {
  /** `fetch` over the socketpair. Each request carries the run of `setRun`. */
  fetch: typeof fetch
  /** The turn that requests belong to from now on. */
  setRun(run: RunStamp | undefined): void
  report(report: Report): void
  /** Resolves when all that was reported is on the socket, ahead of any later request. */
  flushed(): Promise<void>
  /** Resolves when the step is durable; `stale` when this run has passed to someone else. */
  saveStep(step: StepRecord): Promise<'saved' | 'stale'>
  /** User messages that came for the running turn; empty when the gateway can't tell now. */
  takeSteer(run: RunRef): Promise<ModelMessage[]>
}

/**
 * Speaks to the gateway over an inherited descriptor. `onClose` is called once, when the gateway is gone or broke the
 * protocol; nothing can be done after that.
 */
export function openGatewayLink(args: { fd: number; onCommand(command: Command): void; onClose(): void }): GatewayLink {
  const socket = openGatewaySocket(args.fd)
  const http2 = connect('http://gateway', {
    createConnection: () => socket,
    settings: { initialWindowSize: STREAM_WINDOW_BYTES, enablePush: false },
  })
  http2.once('connect', () => http2.setLocalWindowSize(SESSION_WINDOW_BYTES))
  http2.on('error', () => {})
  http2.once('close', args.onClose)
  socket.once('close', args.onClose)
  const session = openSession(http2, args)
  let run: RunStamp | undefined
  const fetchGateway = createGatewayFetch(http2, () => (run ? stamp(run) : {}))
  const post = (path: string, body: unknown) =>
    fetchGateway(`http://gateway${path}`, { method: 'POST', body: JSON.stringify(body) })

  return {
    fetch: fetchGateway,
    setRun(next) {
      run = next
    },
    report: session.report,
    flushed: session.flushed,
    async saveStep(step) {
      const { status } = await post('/steps', step)
      if (status === 204) return 'saved'
      if (status === 409) return 'stale'
      throw new StepNotSaved(status)
    },
    async takeSteer(ref) {
      const response = await post('/steer', ref)
      if (response.status !== 200) return []
      return ((await response.json()) as SteerAnswer).messages
    },
  }
}

function stamp({ runId, fence, traceparent }: RunStamp): Record<string, string> {
  const named = { [RUN_HEADER]: runId, [FENCE_HEADER]: String(fence) }
  return traceparent === undefined ? named : { ...named, [TRACE_HEADER]: traceparent }
}

/** The gateway could not store a step; the turn must not go on as if it had. */
export class StepNotSaved extends Error {
  readonly status: number

  constructor(status: number) {
    super(`the gateway answered ${status} to a step`)
    this.name = 'StepNotSaved'
    this.status = status
  }
}

/** `POST /session`: reports go up in its request, commands come down in its response, for as long as the worker lives. */
function openSession(http2: ClientHttp2Session, args: { onCommand(command: Command): void; onClose(): void }) {
  const stream = http2.request(
    { ':method': 'POST', ':path': '/session', ':authority': 'gateway' },
    { endStream: false },
  )
  let unsent = 0
  let waiting: (() => void)[] = []
  const onSent = () => {
    unsent--
    if (unsent > 0) return
    for (const wake of waiting) wake()
    waiting = []
  }
  stream.on('error', () => {})
  stream.once('close', args.onClose)
  stream.on(
    'data',
    createLineReader({
      bytesMax: COMMAND_BYTES_MAX,
      onLine: (line) => args.onCommand(JSON.parse(line) as Command),
      onOverflow: args.onClose,
    }),
  )
  return {
    report(report: Report) {
      unsent++
      stream.write(`${JSON.stringify(report)}\n`, onSent)
    },
    flushed(): Promise<void> {
      if (unsent === 0) return Promise.resolve()
      return new Promise((resolve) => waiting.push(resolve))
    },
  }
}
