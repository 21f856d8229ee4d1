import { Duplex } from 'node:stream'
import { Worker } from 'node:worker_threads'
import type { Stall } from './multiplexer.ts'

/** What the thread is started with. */
export interface EngineSettings {
  /** undefined: in memory. */
  dataFolder: string | undefined
  /** The cluster to start from when the folder has none; undefined: initialise one. */
  templateFile: string | undefined
  stallMs: number
  idleHoldMsMax: number
}

/** From the gateway to the engine's thread. */
export type GatewayMessage =
  | { kind: 'open'; id: number }
  | { kind: 'bytes'; id: number; bytes: Uint8Array }
  | { kind: 'drop'; id: number }
  | { kind: 'stop' }

/** From the engine's thread to the gateway. */
export type EngineMessage =
  | { kind: 'ready' }
  | { kind: 'bytes'; id: number; bytes: Uint8Array }
  | { kind: 'closed'; id: number }
  | { kind: 'stall'; stall: Stall }
  | { kind: 'fatal'; reason: string }
  | { kind: 'stopped' }

/** The engine as the gateway's thread sees it. */
export interface EngineThread {
  /** One more connection; after the end, a socket that fails. */
  socket(): Duplex
  /** Flushes and ends the thread; idempotent. */
  stop(): Promise<void>
  /** Resolves when the thread ends and nobody stopped it. */
  readonly failed: Promise<Error>
}

/**
 * Deep recursion (a jsonb value of 10,000 brackets) must meet Postgres' own `max_stack_depth` before it meets the end
 * of the thread's stack, which would end the engine: at 2 MB of the former, 16 MB of the latter are too few, 64 do.
 */
const STACK_MB = 128

/** A statement cannot be interrupted; one that still runs after this long is given up, and with it its transaction. */
const STOP_MS_MAX = 15_000

/** Starts the engine's thread. Rejects when it cannot open the database. */
export async function startEngineThread(
  settings: EngineSettings,
  { onStall }: { onStall(stall: Stall): void },
): Promise<EngineThread> {
  const worker = new Worker(engineFile(), {
    workerData: settings,
    execArgv: [],
    resourceLimits: { stackSizeMb: STACK_MB },
  })
  const sockets = new Map<number, Duplex>()
  const ready = Promise.withResolvers<void>()
  const failed = Promise.withResolvers<Error>()
  const stopped = Promise.withResolvers<void>()
  let opened = 0
  let end: Error | undefined
  let stopping: Promise<void> | undefined

  const tell = (message: GatewayMessage, transfer: ArrayBuffer[] = []) => worker.postMessage(message, transfer)

  function finish(error: Error) {
    if (end) return
    end = error
    for (const socket of sockets.values()) fail(socket, error)
    stopped.resolve()
    if (stopping) return
    failed.resolve(error)
    ready.reject(error)
    void worker.terminate()
  }

  worker.on('message', (message: EngineMessage) => {
    if (message.kind === 'bytes') sockets.get(message.id)?.push(message.bytes)
    // After the replies that a paused reader may not have seen yet.
    else if (message.kind === 'closed') setImmediate(() => sockets.get(message.id)?.destroy())
    else if (message.kind === 'stall') onStall(message.stall)
    else if (message.kind === 'fatal') finish(new Error(`The embedded database failed: ${message.reason}`))
    else if (message.kind === 'ready') ready.resolve()
    else stopped.resolve()
  })
  worker.on('error', (error) => finish(new Error(`The embedded database failed: ${error.message}`, { cause: error })))
  worker.on('exit', () => finish(new Error('The embedded database ended')))

  function socket(): Duplex {
    opened += 1
    const id = opened
    const created = createSocket({
      send(bytes) {
        const own = new Uint8Array(bytes)
        tell({ kind: 'bytes', id, bytes: own }, [own.buffer])
      },
      close() {
        if (sockets.delete(id) && !end) tell({ kind: 'drop', id })
      },
    })
    if (end || stopping) {
      // Later, when the caller listens to it.
      setImmediate(() => fail(created, end ?? new Error('The embedded database is stopped')))
      return created
    }
    sockets.set(id, created)
    tell({ kind: 'open', id })
    return created
  }

  async function stopOnce() {
    tell({ kind: 'stop' })
    const timer = setTimeout(stopped.resolve, STOP_MS_MAX)
    await stopped.promise
    clearTimeout(timer)
    await worker.terminate()
    finish(new Error('The embedded database is stopped'))
  }

  await ready.promise
  return {
    socket,
    stop() {
      stopping ??= stopOnce()
      return stopping
    },
    failed: failed.promise,
  }
}

/** Each connection gets an error of its own, because postgres.js writes the query that failed into it. */
function fail(socket: Duplex, error: Error) {
  socket.destroy(new Error(error.message, { cause: error }))
}

/** The engine's own entry point: beside this file in the sources, beside the bundle in a build. */
function engineFile(): URL {
  const inSources = import.meta.url.endsWith('.ts')
  return inSources ? new URL('./engine.ts', import.meta.url) : new URL('./embedded-engine.js', import.meta.url)
}

/** What postgres.js expects of a socket: a duplex stream that tells its state. It writes only after it was handed out. */
function createSocket(wire: { send(bytes: Uint8Array): void; close(): void }): Duplex {
  const socket: Duplex = new Duplex({
    read() {},
    write(bytes: Uint8Array, _encoding, done) {
      wire.send(bytes)
      done()
    },
    final(done) {
      done()
      setImmediate(() => socket.destroy())
    },
    destroy(error, done) {
      wire.close()
      done(error)
    },
  })
  return Object.defineProperty(socket, 'readyState', { get: () => (socket.destroyed ? 'closed' : 'open') })
}
