/** Replica B of `delivery.ts`: nothing but the tail and the streams, at `/{organization}/{conversation}`. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { openDatabase } from '../src/db/client.ts'
import { readHeads } from '../src/sse/event-log.ts'
import { formatNotice } from '../src/sse/frames.ts'
import { decodeHints } from '../src/sse/hints.ts'
import { createSseManager } from '../src/sse/manager.ts'
import { channelKey, createTail } from '../src/sse/tail.ts'
import { log } from './support.ts'

const db = await openDatabase({ url: process.argv[2]!, poolMax: 4, dataDir: null, log })
const tail = createTail({ sql: db.sql, log }, { pollMs: () => 5_000 })
const sse = createSseManager(
  { sql: db.sql, tail, log },
  { streamsMax: 1_000, streamsPerConversationMax: 10, pingMs: 15_000, bufferBytesMax: 1_048_576 },
)
await Promise.all([tail.start(), sse.start()])
await db.listen(
  'lobu_events',
  (payload) => {
    const { rows, bare } = decodeHints(payload)
    tail.offer(rows)
    for (const key of bare) tail.suspect(channelKey(key.organizationId, key.conversationId))
  },
  () => tail.suspect(),
)
const server = createServer(async (req, res) => {
  const [, organizationId = '', conversationId = ''] = (req.url ?? '').split('/')
  const [head] = await readHeads(db.sql, [{ organizationId, conversationId }])
  const last = head?.lastSeq ?? 0
  sse.attach(res, { organizationId, conversationId, after: last, head: last, preamble: formatNotice('connected', {}) })
})
server.listen(0, '127.0.0.1', () => process.send!({ port: (server.address() as AddressInfo).port }))
process.on('disconnect', () => process.exit(0))
