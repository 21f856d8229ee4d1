import { expect } from 'vitest'
import { test } from '../support/cluster.ts'
import { hasNginx, startNginx } from '../support/nginx.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('replicas are processes of their own')

test.override('clusterOptions', { replicas: 2, env: {}, front: startNginx })

const SILENT_MS = 180_000

// 11
test.skipIf(!hasNginx())(
  'a turn of three silent minutes keeps its stream through nginx as it comes',
  async ({ cluster }) => {
    const conversation = await cluster.open()
    const follower = await conversation.follow({ lastEventId: 0 })
    const { messageId } = await conversation.send(`/think ${SILENT_MS} /words 20 /delay 50`)
    await new Promise((resolve) => setTimeout(resolve, SILENT_MS))
    await follower.completed(messageId)
    // One connection from beginning to end: pings kept it, and nginx gave up nothing.
    expect(follower.connections.length).toBe(1)
    expect(follower.faults).toEqual([])
    await follower.stop()
  },
)
