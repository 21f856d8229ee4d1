import type { Database } from './db/client.ts'
import type { Notifier } from './db/notify.ts'
import type { Authenticator } from './domain/accounts/authenticate.ts'
import type { Signals } from './domain/signals.ts'
import { decodeHints, encodeHints } from './sse/hints.ts'
import { channelKey, type Tail } from './sse/tail.ts'
import { type Metrics, NO_METRICS } from './telemetry/metrics.ts'
import type { Runner } from './workers/runner.ts'

/** Fixed and few: every listener of the database is woken by every notification on a channel it listens to. */
const EVENTS = 'lobu_events'
const RUNS = 'lobu_runs'
const CONTROL = 'lobu_control'

/**
 * The time between two rings that wake replicas for runs. Under load one says as much as ten, while each costs all who
 * commit: 32 writers that ring get half as much done without a gap (`npm run bench -- wakes`).
 */
export const GAPS_MS = { [RUNS]: 5 }

export interface LocalParts {
  tail: Tail
  runner: Pick<Runner, 'ring' | 'stopRun' | 'forget'>
  authenticator: Pick<Authenticator, 'forget'>
}

/**
 * The signals of this replica: what concerns it is done at once, without a round trip, and the other replicas hear of it
 * by NOTIFY after the commit. `parts` is asked when a signal comes, since the parts themselves need the signals.
 */
export function createSignals(
  deps: { notifier: Notifier; metrics?: Metrics; parts(): LocalParts },
  { replica }: { replica: string },
): Signals {
  const { metrics = NO_METRICS } = deps
  return {
    published(events) {
      deps.parts().tail.offer(events)
      for (const payload of encodeHints(events)) deps.notifier.ring(EVENTS, payload)
    },
    runReady(preferredReplica) {
      if (preferredReplica === undefined || preferredReplica === replica) deps.parts().runner.ring()
      if (preferredReplica !== replica) deps.notifier.ring(RUNS, preferredReplica ?? '')
    },
    runsEnded({ count, status, deadLetter }) {
      metrics.count('lobu_runs_ended_total', { status }, count)
      if (deadLetter) metrics.count('lobu_dead_letters_total', { kind: 'runs' })
    },
    runEnded(runId) {
      metrics.count('lobu_runs_ended_total', { status: 'cancelled' })
      deps.parts().runner.stopRun(runId)
      deps.notifier.ring(CONTROL, `run ${runId}`)
    },
    conversationEnded({ organizationId, conversationId }) {
      const key = channelKey(organizationId, conversationId)
      deps.parts().tail.suspect(key)
      deps.parts().runner.forget(key)
      deps.notifier.ring(CONTROL, `conversation ${key}`)
    },
    accessChanged() {
      deps.parts().authenticator.forget()
      deps.notifier.ring(CONTROL, 'access')
    },
  }
}

/**
 * Hears the signals of the other replicas. After every (re)LISTEN everything is looked at again, since what rang
 * meanwhile rang for nobody. Returns how to stop hearing.
 */
export async function hearSignals(
  db: Database,
  { tail, runner, authenticator }: LocalParts,
  { replica }: { replica: string },
): Promise<() => Promise<void>> {
  const stops = [
    await db.listen(
      EVENTS,
      (payload) => {
        const { rows, bare } = decodeHints(payload)
        tail.offer(rows)
        for (const key of bare) tail.suspect(channelKey(key.organizationId, key.conversationId))
      },
      () => tail.suspect(),
    ),
    await db.listen(RUNS, (payload) => (payload === '' || payload === replica) && runner.ring(), runner.ring),
    await db.listen(
      CONTROL,
      (payload) => {
        const [kind, name = ''] = payload.split(' ')
        if (kind === 'access') authenticator.forget()
        if (kind === 'run') runner.stopRun(name)
        if (kind !== 'conversation') return
        tail.suspect(name)
        runner.forget(name)
      },
      authenticator.forget,
    ),
  ]
  return async () => {
    for (const stop of stops) await stop()
  }
}
