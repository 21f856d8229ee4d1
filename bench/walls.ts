/** What the second wall between organizations costs: the same verbs with row-level security and without, in turn. */
import { openDatabase } from '../src/db/client.ts'
import { scopeToOrganization } from '../src/db/tenant.ts'
import { actorWithAll } from '../src/domain/accounts/actor.ts'
import { bootstrap } from '../src/domain/accounts/bootstrap.ts'
import { getConversation } from '../src/domain/conversations/get.ts'
import { openConversation } from '../src/domain/conversations/open.ts'
import { postMessage } from '../src/domain/messages/post.ts'
import { SILENT } from './scene.ts'
import { inTurn, log, ROUNDS, rate, scaled, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const CALLERS = 8
const MESSAGES = scaled(1_000)
const READS = scaled(4_000)
const CONVERSATIONS = 100

export function benchWalls(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const db = await openDatabase({ url, poolMax: 10, dataDir: null, log })
    await bootstrap(db.sql, { onlyFirst: true })
    const [org] = await db.sql<{ id: string }[]>`select id from organizations`
    const actor = actorWithAll({ organizationId: org!.id, organizationSlug: 'default', userId: 'bench' })
    const scoped = scopeToOrganization(db.sql, org!.id)
    const opened = await Promise.all(
      Array.from({ length: CONVERSATIONS }, (_, index) =>
        openConversation(db.sql, { actor, thread: `t${index}`, forceNew: false, dryRun: false, settings: {} }),
      ),
    )
    const ids = opened.map((one) => one.conversationId)
    const runner = { reserve: () => false, settle() {}, hasWorker: () => false }
    const budgets = { findExhausted: async () => null }
    const backlog = { admit: async () => {} }
    const limits = { replica: 'bench', leaseMs: 60_000, depthMax: 1e6, organizationMax: 1e6, workerIdleMs: 1 }

    const post = (sql: typeof db.sql) => () =>
      rate(MESSAGES, CALLERS, (index) =>
        postMessage(
          { sql, signals: SILENT, runner, budgets, backlog },
          {
            ...{ actor, conversationId: ids[index % ids.length]!, content: 'x'.repeat(140) },
            ...{ onBusy: 'enqueue', origin: {}, files: [] },
          },
          limits,
        ),
      )
    const read = (sql: typeof db.sql) => () =>
      rate(READS, CALLERS, (index) => getConversation(sql, { actor, conversationId: ids[index % ids.length]! }))

    const posts = await inTurn(ROUNDS, post(scoped), post(db.sql))
    const reads = await inTurn(ROUNDS, read(scoped), read(db.sql))
    await db.close()
    return [
      row(`accept a message behind row-level security, ${CALLERS} callers`, posts),
      row(`read a conversation behind it, ${CALLERS} callers`, reads),
    ]
  })
}

function row(name: string, { ours, peer }: { ours: number; peer: number }): Row {
  return { name, ours, peer: { name: 'without', value: peer }, unit: '/s' }
}
