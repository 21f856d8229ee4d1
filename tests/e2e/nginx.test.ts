import { expect } from 'vitest'
import { test } from '../support/cluster.ts'
import { hasNginx, startNginx } from '../support/nginx.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('replicas are processes of their own')

// nginx as it is installed, but for its patience: 60 s become 3. `tests/rollout` has it with all of its patience.
test.override('clusterOptions', {
  replicas: 2,
  env: { STREAM_PING_SECONDS: '1' },
  front: () => startNginx({ location: ' proxy_read_timeout 3s;' }),
})

// 11
test.skipIf(!hasNginx())('nginx with its default settings passes words on while they are said', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow({ lastEventId: 0 })
  const { messageId, runId } = await conversation.send('/words 100000 /delay 20')
  await follower.streamed(messageId, 3)
  const run = await cluster.call('GET', `/api/v1/runs/${runId}`)
  expect(run.body).toMatchObject({ status: 'running' })
  expect((await conversation.cancel()).status).toBe(200)
  await follower.completed(messageId)
  expect(follower.connections.length).toBe(1)
  await follower.stop()
})

// 11
test.skipIf(!hasNginx())('a turn that is silent for longer than nginx waits keeps its stream', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow({ lastEventId: 0 })
  const { messageId } = await conversation.send('/think 8000 /words 3')
  expect((await follower.completed(messageId)).data).toMatchObject({ finalText: 'w1 w2 w3' })
  expect(follower.connections.length).toBe(1)
  expect(follower.faults).toEqual([])
  await follower.stop()
})
