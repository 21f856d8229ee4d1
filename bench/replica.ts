/** A replica as `app.ts` makes it, as far as claiming goes: the runner with its doorbells, and workers that end each turn at once. */
import { openDatabase } from '../src/db/client.ts'
import { createNotifier } from '../src/db/notify.ts'
import type { Signals } from '../src/domain/signals.ts'
import { createSignals, GAPS_MS, hearSignals } from '../src/doorbells.ts'
import { createTail } from '../src/sse/tail.ts'
import type { WorkerPool } from '../src/workers/pool.ts'
import { NO_USAGE } from '../src/workers/protocol.ts'
import { createReplyWriter } from '../src/workers/replies.ts'
import { createRunner } from '../src/workers/runner.ts'
import { log } from './support.ts'

const FREE = 50

export interface BenchReplica {
  signals: Signals
  stop(): Promise<void>
}

/** @param onTurn called where a worker would be given the turn. */
export async function startReplica(
  url: string,
  { name, onTurn }: { name: string; onTurn(conversationId: string): void },
): Promise<BenchReplica> {
  const db = await openDatabase({ url, poolMax: 4, dataDir: null, log })
  const { sql } = db
  const notifier = createNotifier({ sql, log }, { gapsMs: GAPS_MS })
  const authenticator = { forget() {} }
  const signals = createSignals({ notifier, parts: () => ({ tail, runner, authenticator }) }, { replica: name })
  const tail = createTail({ sql, log }, { pollMs: () => 5_000 })
  const pool: WorkerPool = {
    name: 'pool',
    async start() {},
    async stop() {},
    async runTurn({ key }) {
      onTurn(key.slice(key.indexOf('/') + 1))
      return { status: 'completed', usage: NO_USAGE }
    },
    free: () => FREE,
    has: () => false,
    forget() {},
    snapshot: () => ({
      ...{ workers: 0, busy: 0, warm: 0, max: FREE, busyMax: FREE },
      ...{ isolation: 'advisory', fault: null, starting: false },
    }),
  }
  const replies = createReplyWriter({ sql, log, onInserted() {} })
  const quiet = log.child({}, { level: 'error' })
  const runner = createRunner(
    {
      ...{ sql, log: quiet, signals, pool, replies },
      budgets: { findExhausted: async () => null },
      costOf: () => 0,
      resolveModel: async () => ({ provider: 'demo', modelId: 'demo' }),
    },
    {
      ...{ replica: name, leaseMs: 60_000, pollMs: 5_000, attemptsMax: 3, runMsMax: 60_000 },
      organizationRunsMax: 1_000_000,
      textCharsMax: 1_000_000,
      limits: { stepsMax: 1, outputTokensMax: 1 },
    },
  )
  const loops = [tail, ...runner.loops]
  await Promise.all([notifier.start(), ...loops.map((loop) => loop.start())])
  const stopHearing = await hearSignals(db, { tail, runner, authenticator }, { replica: name })
  return {
    signals,
    async stop() {
      await runner.drain(1_000)
      await replies.stop()
      await Promise.all(loops.map((loop) => loop.stop()))
      await stopHearing()
      await notifier.stop()
      await db.close()
    },
  }
}
