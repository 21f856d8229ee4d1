import type { Sql } from '../../db/client.ts'
import { errorLine } from '../../lib/errors.ts'
import type { Logger } from '../../lib/logger.ts'
import { createLoop, type Loop } from '../../lib/loop.ts'
import { type FencedRun, promoteDueRuns, recoverLapsedRuns } from '../../queue/runs.ts'
import type { Signals } from '../signals.ts'
import { endRun } from './end.ts'

/**
 * Sees to it that no run is forgotten: runs whose time has come become claimable, runs whose holder died are put back,
 * and those that died too often end as failed. Every replica does this all the time, so none of them is needed for it;
 * the steps are independent, so one that fails does not keep the others from working.
 */
export function createRunSweeper(
  deps: { sql: Sql; log: Logger; signals: Signals },
  options: { everyMs: number; attemptsMax: number },
): Loop {
  async function promote() {
    if ((await promoteDueRuns(deps.sql)) > 0) deps.signals.runReady()
  }

  async function recover() {
    const { recovered, exhausted } = await recoverLapsedRuns(deps.sql, options)
    for (const run of recovered) deps.log.warn({ ...idsOf(run), fence: run.fence }, 'run taken back from a dead holder')
    if (recovered.length > 0) deps.signals.runReady()
    await Promise.all(exhausted.map(tryToGiveUp))
  }

  /** One run that cannot be ended must not make this replica look ill, nor keep the others from being ended. */
  async function tryToGiveUp(run: FencedRun) {
    await giveUp(run).catch((error: unknown) => {
      deps.log.error({ ...idsOf(run), err: errorLine(error) }, 'run could not be given up, tried again soon')
    })
  }

  async function giveUp(run: FencedRun) {
    const [row] = await deps.sql<{ conversationId: string }[]>`
      select conversation_id as "conversationId" from runs
      where organization_id = ${run.organizationId} and id = ${run.id}`
    if (!row) return
    const error = { code: 'attempts_exhausted', message: 'The turn was interrupted too often and was given up' }
    const { ended } = await endRun(deps, { ...run, ...row, status: 'failed', error, deadLetter: true })
    if (ended.length > 0) deps.log.error({ ...idsOf(run), ...row }, 'run given up after its last attempt')
  }

  return createLoop(
    { log: deps.log },
    {
      name: 'sweeper',
      everyMs: options.everyMs,
      async pass() {
        const outcomes = await Promise.allSettled([promote(), recover()])
        const failed = outcomes.find((outcome) => outcome.status === 'rejected')
        if (failed) throw failed.reason
      },
    },
  )
}

const idsOf = ({ id, organizationId }: FencedRun) => ({ runId: id, organizationId })
