import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import { oweCallAgain } from '../../queue/outbox.ts'
import type { Actor } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import { acceptMessage } from '../messages/accept.ts'
import type { PostOptions } from '../messages/post.ts'
import type { Signals } from '../signals.ts'
import { describeDeadLetter, type TakenDeadLetter, takeDeadLetter } from './remove.ts'

export type Replayed =
  | { kind: 'run'; conversationId: string; messageId: string; runId: string }
  | { kind: 'call'; deliveryId: string }

/**
 * Does the work of a dead letter once more: a run's message is asked again as a new message behind the others, a call is
 * made again under its old id. The letter goes in the same transaction, which is also on record, so of any number of replays at once one counts.
 *
 * @throws AppError 'not_found', 'forbidden', 'conflict' when its conversation is over, and what `acceptMessage` throws;
 * then the letter stays.
 */
export async function replayDeadLetter(
  deps: { sql: Sql; signals: Signals },
  args: { actor: Actor; id: string },
  options: PostOptions,
): Promise<Replayed> {
  const after: (() => void)[] = []
  // What is rung inside the transaction is heard by nobody yet: it is told after the commit.
  const signals: Signals = {
    ...deps.signals,
    runReady: (preferred) => void after.push(() => deps.signals.runReady(preferred)),
  }
  const replayed = await inTransaction(deps.sql, async (tx): Promise<Replayed> => {
    const letter = await takeDeadLetter(tx, args)
    const replayed =
      letter.queue === 'runs'
        ? await askAgain({ sql: tx, signals }, args, { letter: letter.payload, options })
        : await callAgain(tx, args, letter)
    await recordAudit(tx, args.actor, {
      ...{ action: 'dead_letter.replayed', targetKind: 'dead_letter', targetId: args.id },
      details: { ...describeDeadLetter(letter), ...replayed },
    })
    return replayed
  })
  for (const tell of after) tell()
  return replayed
}

async function callAgain(
  tx: Sql,
  { actor: { organizationId } }: { actor: Actor },
  { queue, payload }: TakenDeadLetter,
): Promise<Replayed> {
  return { kind: 'call', deliveryId: await oweCallAgain(tx, { organizationId, kind: queue, letter: payload }) }
}

interface Asked {
  content: Record<string, unknown>
  text: string
  webhookUrl: string | null
}

async function askAgain(
  deps: { sql: Sql; signals: Signals },
  { actor: { organizationId }, id }: { actor: Actor; id: string },
  { letter, options }: { letter: Record<string, unknown>; options: PostOptions },
): Promise<Replayed> {
  const { conversationId, messageId } = letter as { conversationId: string; messageId: string }
  const [asked] = await deps.sql<Asked[]>`
    select m.content, m.text, r.webhook_url as "webhookUrl"
    from messages m
    join conversations c on c.organization_id = m.organization_id and c.id = m.conversation_id and c.status = 'active'
    left join runs r on r.organization_id = m.organization_id and r.id = m.run_id
    where m.organization_id = ${organizationId} and m.conversation_id = ${conversationId} and m.id = ${messageId}`
  if (!asked) throw new AppError('conflict', 'The conversation of this dead letter is over')
  const accepted = await acceptMessage(
    deps,
    {
      ...{ organizationId, conversationId, ...asked },
      ...{ messageId: `replay-${id}`, bodyHash: sha256(`replay ${id}`) },
      ...{ fileIds: [], onBusy: 'enqueue', traceparent: null },
    },
    { ...options, preferredMs: 0, claimHere: false, workerHere: true },
  )
  return { kind: 'run', conversationId, messageId: accepted.messageId, runId: accepted.runId }
}
