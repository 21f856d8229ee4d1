import type { Sql } from '../../db/client.ts'
import type { RunUsage, StepFinish } from '../../db/tables.ts'
import type { FencedRun } from '../../queue/runs.ts'

export interface StepUsage {
  step: number
  model: string
  usage: RunUsage
  /** Millionths of a US dollar; null when the model has no price. */
  costMicros: number | null
  /** How it left the turn; nothing where nobody knows. */
  finish?: StepFinish | undefined
}

/**
 * A statement that notes what a step used, to be made part of the one that saves the step: either both are there or
 * neither. Each step has a row of its own, so that turns that end at the same time wait for nobody; `roll-up.ts` sums
 * them up when the run has ended, and until then the same step sent again finds its row.
 */
export function recordStep(sql: Sql, run: FencedRun & { conversationId: string }, step: StepUsage) {
  const { usage } = step
  return sql`
    insert into usage_steps (organization_id, run_id, fence, step, day, agent_id, model, user_id, input_tokens,
      output_tokens, cached_input_tokens, cost_micros, finish)
    select ${run.organizationId}, ${run.id}, ${run.fence}, ${step.step}, (now() at time zone 'utc')::date, c.agent_id,
      ${step.model}, c.user_id, ${usage.inputTokens}, ${usage.outputTokens}, ${usage.cachedInputTokens}, ${step.costMicros},
      ${step.finish ?? null}
    from conversations c where c.organization_id = ${run.organizationId} and c.id = ${run.conversationId}
    on conflict (organization_id, run_id, fence, step) do nothing`
}

/** How the last saved step of a run left its turn; null when there is none, or its release did not say. */
export async function readLastFinish(
  sql: Sql,
  run: { organizationId: string; id: string },
): Promise<StepFinish | null> {
  const [row] = await sql<{ finish: StepFinish | null }[]>`
    select finish from usage_steps where organization_id = ${run.organizationId} and run_id = ${run.id}
    order by fence desc, step desc limit 1`
  return row?.finish ?? null
}
