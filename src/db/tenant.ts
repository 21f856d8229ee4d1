import { type DriverQuery, guardTag, REFUSED, refuse, type Sql } from './driver-query.ts'
import { RUN_SCOPED, type RunScoped, STALE_PLAN } from './guard-scope.ts'
import { TENANT_ROLE } from './tenant-role.ts'

/** What may stand between quotes in SQL as it is. All ids that we make are of this kind. */
const PLAIN_ID = /^[A-Za-z0-9_-]+$/

/**
 * The database as one organization sees it. Every statement and every transaction on the returned client runs as a role
 * that row-level security binds, with the organization's id set for that transaction: rows of other organizations are not
 * there, and cannot be made, whatever the statement says. The second wall behind the `organization_id` in every query (I9).
 *
 * A statement costs two round trips: begin with the settings, then the statement with the commit. A transaction costs three
 * beside those of its statements.
 */
export function scopeToOrganization(sql: Sql, organizationId: string): Sql {
  const begin = (...args: unknown[]) => {
    const work = args.at(-1) as (tx: Sql) => unknown
    const mode = args.length > 1 ? String(args[0]) : ''
    return sql.begin(mode, async (tx) => {
      await tx`
        select set_config('role', ${TENANT_ROLE}, true), set_config('lobu.organization_id', ${organizationId}, true)`
      return work(tx as unknown as Sql)
    })
  }

  const runScoped = PLAIN_ID.test(organizationId) ? (sql as { [RUN_SCOPED]?: RunScoped })[RUN_SCOPED] : undefined
  const opening = `begin; set local role ${TENANT_ROLE}; set local lobu.organization_id = '${organizationId}'`

  async function run({ strings, args }: DriverQuery): Promise<unknown> {
    const slowly = () => begin((tx: Sql) => tx(strings, ...args))
    if (!runScoped) return slowly()
    try {
      return await runScoped({ opening, strings, args })
    } catch (error) {
      if (error !== STALE_PLAN) throw error
      return slowly()
    }
  }

  /** A statement of its own is a transaction of its own. A fragment is never handed to the driver, so it never comes here. */
  function admit(query: DriverQuery) {
    query.handler = () => {
      run(query).then(query.resolve, query.reject)
    }
  }

  return Object.assign(
    guardTag(() => sql, admit),
    { begin, unsafe: refuse, ...REFUSED },
  ) as unknown as Sql
}
