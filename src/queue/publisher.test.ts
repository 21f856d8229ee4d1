import { expect } from 'vitest'
import { createScene, deltaLine, replyBatch, textOfEvents, until } from '../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import { createPublisher } from './publisher.ts'
import { insertReplies, type PublishedEvents } from './thread-response.ts'

requirePostgres('transactions stay open on other connections')

/** A publisher that works when it is rung, and what it has published. */
async function startPublisher(world: World, sql: Sql, { pollMs = 60_000 } = {}) {
  const published: PublishedEvents[] = []
  const onPublished = (events: PublishedEvents[]) => void published.push(...events)
  const publisher = await world.run(createPublisher({ sql, log: world.log, onPublished }, { pollMs }))
  const conversations = () => published.map((events) => events.conversationId)
  return { publisher, published, conversations }
}

/** As many ids as a busy gateway gives while one commit takes its time. */
function spendIds(sql: Sql, count: number) {
  return sql`select count(nextval(pg_get_serial_sequence('thread_response', 'id'))) from generate_series(1, ${count})`
}

test('what is inserted is published at a ring, and told', async ({ world }) => {
  const scene = await createScene(world)
  const { publisher, conversations } = await startPublisher(world, scene.sql)
  const run = await scene.start(await scene.open())
  await scene.say(run, 'hello')
  publisher.ring()

  await until(() => expect(conversations()).toEqual([run.conversationId]))
  expect(textOfEvents(await scene.events(run.conversationId), run.messageId)).toBe('hello')
})

test('what a replica left behind that died before it could ring is published at the next poll', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  await scene.say(run, 'orphaned')
  const { conversations } = await startPublisher(world, scene.sql, { pollMs: 20 })

  await until(() => expect(conversations()).toEqual([run.conversationId]))
})

test('a long queue is emptied after one ring', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  await scene.sql`
    insert into thread_response (organization_id, conversation_id, event_count, events)
    select ${scene.organizationId}, ${run.conversationId}, 1, 'status {}' from generate_series(1, 1234)`
  const { published } = await startPublisher(world, scene.sql)

  await until(() => expect(published.at(-1)?.lastSeq).toBe(1_234))
})

test('replies whose conversation is held for a moment are published when it is free, without another ring', async ({
  world,
}) => {
  const scene = await createScene(world)
  const { publisher, conversations } = await startPublisher(world, scene.sql)
  const [held, free] = [await scene.start(await scene.open()), await scene.start(await scene.open())]
  const holder = await world.replica()
  const opening = await scene.hold(
    holder.sql,
    (tx) => tx`select 1 from conversations where id = ${held.conversationId} for share`,
  )
  await scene.say(held, 'words')
  await scene.say(free, 'words')
  publisher.ring()

  await until(() => expect(conversations()).toEqual([free.conversationId]))
  await opening.release()
  await until(() => expect(conversations()).toEqual([free.conversationId, held.conversationId]))
})

test('replies that commit late are published, and before those that follow them in their conversation', async ({
  world,
}) => {
  const scene = await createScene(world)
  const { publisher, conversations } = await startPublisher(world, scene.sql)
  const [late, other] = [await scene.start(await scene.open()), await scene.start(await scene.open())]
  const slow = await world.replica()

  const open = await scene.hold(slow.sql, (tx) => insertReplies(tx, [replyBatch(late, 1, [deltaLine(late, 'first ')])]))
  await spendIds(scene.sql, 20_000)
  for (let i = 1; i <= 4; i++) {
    await scene.say(other, 'words')
    publisher.ring()
    await until(() => expect(conversations()).toHaveLength(i))
  }
  await open.release()
  await insertReplies(scene.sql, [replyBatch(late, 2, [deltaLine(late, 'second')])])
  publisher.ring()

  await until(async () => {
    publisher.ring()
    expect(await scene.events(late.conversationId)).toHaveLength(2)
  })
  expect(textOfEvents(await scene.events(late.conversationId), late.messageId)).toBe('first second')
})
