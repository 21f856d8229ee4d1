import type { Sql } from './client.ts'
import { inTransaction } from './transaction.ts'

/** Cannot log in and owns nothing, so that no policy passes it by. One for all databases of a server. */
export const TENANT_ROLE = 'lobu_tenant'

/** Where not every change is an organization's to make: the record of what was done, people, and its own existence. */
const RIGHTS: Record<string, string> = {
  audit_log: 'select, insert',
  users: 'select',
  organizations: 'select, update',
}
/** Any number will do, as long as every release uses the same. */
const GRANT_LOCK = 7_262_027_003
const ALL_RIGHTS = 'select, insert, update, delete'
/** Tables without an organization of their own that statements of an organization read. */
const READABLE = ['replicas']

/**
 * Makes the role and gives it what an organization's statements need, as far as this user may. Safe to be called by many
 * at once, and again. The tables are those that a policy binds; who signs in how is not among them.
 */
export function ensureTenantRole(sql: Sql): Promise<void> {
  return inTransaction(sql, async (tx) => {
    // Two that write the same row of a catalogue at once fail with "tuple concurrently updated".
    await tx`select pg_advisory_xact_lock(${GRANT_LOCK})`
    await grantTenantRole(tx)
  })
}

/** The work of it, in the transaction of the caller. */
export async function grantTenantRole(sql: Sql): Promise<void> {
  if (!(await roleExists(sql))) await sql.unsafe(tryTo(`create role ${TENANT_ROLE} nologin`))
  if (!(await roleExists(sql))) return
  if (!(await isMember(sql))) await sql.unsafe(tryTo(`grant ${TENANT_ROLE} to current_user`))
  if (!(await isMember(sql))) return
  const tables = await sql<{ name: string; granted: boolean }[]>`
    select distinct tablename as name, has_table_privilege(${TENANT_ROLE}, format('%I.%I', schemaname, tablename), 'select') as granted
    from pg_policies where policyname = 'tenant' and schemaname = current_schema()`
  if (tables.length === 0) return
  const missing = tables.filter(({ granted }) => !granted)
  if (missing.length === 0) return
  await sql.unsafe(`grant usage on schema ${await schemaName(sql)} to ${TENANT_ROLE}`)
  for (const { name } of missing) await sql.unsafe(`grant ${RIGHTS[name] ?? ALL_RIGHTS} on "${name}" to ${TENANT_ROLE}`)
  for (const name of READABLE) await sql.unsafe(`grant select on "${name}" to ${TENANT_ROLE}`)
}

/**
 * Whether statements can run as the role: null when they can, else one sentence with the way there. Then the queries'
 * own conditions are the only wall.
 */
export async function explainMissingTenantRole(sql: Sql): Promise<string | null> {
  const [row] = await sql<{ user: string; there: boolean }[]>`
    select current_user as user, exists (select 1 from pg_roles where rolname = ${TENANT_ROLE}) as there`
  const fix = `create role ${TENANT_ROLE} nologin; grant ${TENANT_ROLE} to "${row!.user}";`
  if (!row!.there) return `Row-level security is off: a superuser must run "${fix}" and then "lobu migrate" again.`
  const [state] = await sql<{ granted: boolean }[]>`
    select has_table_privilege(${TENANT_ROLE}, 'agents', 'insert') as granted`
  if (!(await isMember(sql)))
    return `Row-level security is off: run "grant ${TENANT_ROLE} to "${row!.user}";" as a superuser.`
  return state!.granted ? null : 'Row-level security is off: run "lobu migrate" as the owner of the tables.'
}

async function roleExists(sql: Sql): Promise<boolean> {
  const rows = await sql`select 1 from pg_roles where rolname = ${TENANT_ROLE}`
  return rows.length > 0
}

async function isMember(sql: Sql): Promise<boolean> {
  const [row] = await sql<{ member: boolean }[]>`select pg_has_role(current_user, ${TENANT_ROLE}, 'member') as member`
  return row!.member
}

/** Where this user has not the right, or another database of the server was faster, nothing happens. */
function tryTo(statement: string): string {
  return `do $$ begin ${statement};
    exception when insufficient_privilege or duplicate_object or unique_violation then null; end $$`
}

async function schemaName(sql: Sql): Promise<string> {
  const [row] = await sql<{ name: string }[]>`select quote_ident(current_schema()) as name`
  return row!.name
}
