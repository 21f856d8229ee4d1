import type { Sql } from '../../src/db/client.ts'
import type { Cluster, Conversation } from './cluster.ts'
import type { Follower } from './follower.ts'
import { untilAccepted } from './talk.ts'
import { wordsUpTo } from './words.ts'

/** So many words of the first try, one every 20 ms; and of the last one, which speaks for a minute. */
const [WORDS, WORDS_MAX] = [20, 3_000]

export interface HeldTurn {
  conversation: Conversation
  follower: Follower
  messageId: string
  runId: string
  /** All that it has to say. */
  answer: string
}

/**
 * A turn that has begun to speak, and of which nothing more is published, its end neither, until `work` is done: that
 * takes the row of its conversation, which is locked here. Steps are saved without it. On a machine on which the turn was
 * over before the row was had, it is tried again with a longer one.
 */
export async function holdTurn(
  cluster: Cluster,
  work: (turn: HeldTurn, tx: Sql) => Promise<unknown>,
  { at }: { at?: string } = {},
): Promise<HeldTurn> {
  for (let words = WORDS; words <= WORDS_MAX; words *= 2) {
    const turn = await begin(cluster, words, at)
    const isHeld = await cluster.database.sql.begin(async (tx) => {
      await tx`select 1 from conversations where id = ${turn.conversation.id} for no key update`
      const rows = await tx`select 1 from runs where id = ${turn.runId} and ended_at is null`
      if (rows.length > 0) await work(turn, tx as unknown as Sql)
      return rows.length > 0
    })
    if (isHeld) return turn
    await turn.follower.stop()
  }
  throw new Error('every turn was over before the row of its conversation was had')
}

async function begin(cluster: Cluster, words: number, at: string | undefined): Promise<HeldTurn> {
  const conversation = await untilAccepted(() => cluster.open())
  const follower = await untilAccepted(() => conversation.follow({ lastEventId: 0 }))
  const message = { messageId: `held-${words}-${conversation.id}` }
  const call = at === undefined ? {} : { at }
  const sent = await untilAccepted(() => conversation.send(`/words ${words} /delay 20`, message, call))
  await follower.streamed(sent.messageId, 1)
  const answer = wordsUpTo(words)
  return { conversation, follower, ...sent, answer }
}
