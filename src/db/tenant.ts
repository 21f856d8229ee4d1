import { type DriverQuery, guardTag, REFUSED, refuse, type Sql } from './driver-query.ts'
import { TENANT_ROLE } from './tenant-role.ts'

/**
 * The database as one organization sees it. Every statement and every transaction on the returned client runs as a role
 * that row-level security binds, with the organization's id set for that transaction: rows of other organizations are not
 * there, and cannot be made, whatever the statement says. The second wall behind the `organization_id` in every query (I9).
 *
 * Costs three round trips a statement (begin, settings, commit); several statements of a verb belong in one transaction
 * anyway.
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

  /** A statement of its own is a transaction of its own. A fragment is never handed to the driver, so it never comes here. */
  function admit(query: DriverQuery) {
    query.handler = () => {
      begin((tx: Sql) => tx(query.strings, ...query.args)).then(query.resolve, query.reject)
    }
  }

  return Object.assign(
    guardTag(() => sql, admit),
    { begin, unsafe: refuse, ...REFUSED },
  ) as unknown as Sql
}
