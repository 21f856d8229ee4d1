import { readFile } from 'node:fs/promises'
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { PGlite } from '@electric-sql/pglite'
import { pg_trgm } from '@electric-sql/pglite/contrib/pg_trgm'
import { vector } from '@electric-sql/pglite-pgvector'
import { createMultiplexer, type Engine } from './multiplexer.ts'
import type { EngineMessage, EngineSettings, GatewayMessage } from './thread.ts'

/** The engine's thread: Postgres as WebAssembly, and the multiplexer in front of it. An entry point of its own. */

/** Exit status by which the engine says that a statement failed and the session goes on (PGlite's pglitec.c). */
const STATEMENT_FAILED = 100

/**
 * Added to PGlite's own. Clients read times as UTC in ISO form; 32 MB of shared buffers take 100 MB less memory than
 * the default 128 and start 0.2 s sooner, and the system's page cache makes up for them.
 */
const SERVER_SETTINGS = ['TimeZone=UTC', 'DateStyle=ISO, MDY', 'shared_buffers=32MB']

if (!parentPort) throw new Error('the embedded database runs in a worker thread')
await run(parentPort, workerData as EngineSettings)

async function run(port: MessagePort, settings: EngineSettings) {
  const say = (message: EngineMessage, transfer: ArrayBuffer[] = []) => port.postMessage(message, transfer)
  const lastWords: string[] = []
  const fail = (error: unknown): never => {
    say({ kind: 'fatal', reason: lastWords.at(-1) ?? describe(error) })
    process.exit(1)
  }
  const db = await openDatabase(settings, lastWords).catch(fail)
  const { rows } = await db.query<{ server_version: string }>('show server_version')
  const multiplexer = createMultiplexer(createEngine(db, fail), {
    ...settings,
    serverVersion: rows[0]?.server_version ?? '',
    onStall: (stall) => say({ kind: 'stall', stall }),
    onFatal: fail,
  })
  const connections = new Map<number, ReturnType<typeof multiplexer.open>>()

  function open(id: number) {
    const peer = {
      send(bytes: Uint8Array) {
        const own = new Uint8Array(bytes)
        say({ kind: 'bytes', id, bytes: own }, [own.buffer])
      },
      close: () => say({ kind: 'closed', id }),
    }
    connections.set(id, multiplexer.open(peer))
  }

  port.on('message', async (message: GatewayMessage) => {
    if (message.kind === 'open') return open(message.id)
    if (message.kind === 'bytes') return connections.get(message.id)?.receive(message.bytes)
    if (message.kind === 'drop') {
      connections.get(message.id)?.drop()
      return connections.delete(message.id)
    }
    await multiplexer.close()
    await db.close()
    say({ kind: 'stopped' })
    port.close()
  })
  say({ kind: 'ready' })
}

/** @param lastWords receives what the server wrote to its log before it gave up; no statements, they hold user data. */
async function openDatabase(settings: EngineSettings, lastWords: string[]) {
  const { dataFolder, templateFile } = settings
  const options = {
    extensions: { vector, pg_trgm },
    startParams: [...PGlite.defaultStartParams, ...SERVER_SETTINGS.flatMap((setting) => ['-c', setting])],
    onStderr(line: string) {
      if (/\b(PANIC|FATAL): /.test(line)) lastWords.splice(0, 1, line)
      return false
    },
    ...(dataFolder === undefined ? {} : { dataDir: dataFolder }),
    ...(templateFile === undefined
      ? {}
      : { loadDataDir: new File([await readFile(templateFile)], 'template', { type: 'application/x-gzip' }) }),
  }
  return await PGlite.create(options)
}

function createEngine(db: PGlite, fail: (error: unknown) => never): Engine {
  // PGlite goes on after any exception, even when the engine has aborted and would answer nothing for ever.
  const module = db.Module
  const step = module._PostgresMainLoopOnce
  module._PostgresMainLoopOnce = () => {
    try {
      step()
    } catch (error) {
      if ((error as { status?: unknown }).status !== STATEMENT_FAILED) fail(error)
      throw error
    }
  }
  return {
    async execute(batch) {
      const chunks: Uint8Array[] = []
      await db.execProtocolRawStream(batch, {
        syncToFs: false,
        onRawData: (bytes) => chunks.push(bytes.slice()),
      })
      return Buffer.concat(chunks)
    },
  }
}

function describe(error: unknown): string {
  return String((error as { message?: unknown } | null)?.message ?? error)
}
