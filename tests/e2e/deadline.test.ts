import { expect } from 'vitest'
import { test } from '../support/cluster.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the replica is a process of its own')

test.override('clusterOptions', { replicas: 1, env: { RUN_SECONDS_MAX: '3' } })

// 15: the other half, that a silent turn which beats may go on, is in src/workers/process.test.ts.
test('a turn that beats and comes to no end is ended when its time is over, says so, and the next goes on', async ({
  cluster,
}) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const { messageId, runId } = await conversation.send('/think 3600000')
  const next = await conversation.send('/echo next')
  expect((await follower.completed(messageId)).data).toMatchObject({ status: 'failed' })
  expect((await follower.completed(next.messageId)).data).toMatchObject({ status: 'completed', finalText: 'next' })
  await follower.stop()
  const { body } = await cluster.call('GET', `/api/v1/runs/${runId}`)
  expect(body).toMatchObject({ status: 'failed', attempt: 1, error: { code: 'turn_timeout' } })
})
