/** What `lobu doctor` asks a server. Reads catalogues alone, and changes nothing. */
import type { Sql } from './driver-query.ts'
import { TENANT_ROLE } from './tenant-role.ts'

export interface ServerFacts {
  /** For example `15.20`. */
  version: string
  /** For example 15. */
  major: number
  user: string
  database: string
  /** A standby, or a primary that lost its place: nothing can be written. */
  readOnly: boolean
  /** TLS of this connection to the server, for example `TLSv1.3`; null without. Behind a pooler: the pooler's. */
  tls: string | null
}

export async function readServer(sql: Sql): Promise<ServerFacts> {
  const [row] = await sql<(Omit<ServerFacts, 'major'> & { number: number })[]>`
    select split_part(current_setting('server_version'), ' ', 1) as version,
      current_setting('server_version_num')::int as number, current_user as "user", current_database() as database,
      pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as "readOnly",
      (select version from pg_stat_ssl where pid = pg_backend_pid() and ssl) as tls`
  const { number, ...facts } = row!
  return { ...facts, major: Math.floor(number / 10_000) }
}

export interface VectorFacts {
  /** Version in this database. */
  installed: string | null
  /** Its type is found without naming a schema. */
  visible: boolean
  /** Version that the server could create. */
  available: string | null
  /** Whoever may create in the database may create it; otherwise only a superuser. */
  trusted: boolean
}

export async function readVector(sql: Sql): Promise<VectorFacts> {
  const [row] = await sql<VectorFacts[]>`
    select (select extversion from pg_extension where extname = 'vector') as installed,
      to_regtype('vector') is not null as visible,
      (select default_version from pg_available_extensions where name = 'vector') as available,
      coalesce((select v.trusted from pg_available_extension_versions v
        join pg_available_extensions e on e.name = v.name and e.default_version = v.version where v.name = 'vector'), false) as trusted`
  return row!
}

export interface RightsFacts {
  user: string
  superuser: boolean
  createRole: boolean
  /** Schema in which tables are made; null when the search path has none that this user may enter. */
  schema: string | null
  createInDatabase: boolean
  createInSchema: boolean
  /** Tables of ours that another user owns, so that this one cannot alter them. */
  foreignTables: number
}

export async function readRights(sql: Sql): Promise<RightsFacts> {
  const [row] = await sql<RightsFacts[]>`
    select r.rolname as "user", r.rolsuper as superuser, r.rolcreaterole as "createRole", current_schema() as schema,
      has_database_privilege(current_database(), 'create') as "createInDatabase",
      coalesce(has_schema_privilege(current_schema(), 'create'), false) as "createInSchema",
      (select count(*)::int from pg_policies p join pg_class c on c.relname = p.tablename
        join pg_namespace n on n.oid = c.relnamespace and n.nspname = p.schemaname
       where p.policyname = 'tenant' and p.schemaname = current_schema() and not pg_has_role(c.relowner, 'usage')) as "foreignTables"
    from pg_roles r where r.rolname = current_user`
  return row!
}

export interface WallFacts {
  roleThere: boolean
  /** The role that row-level security must bind passes it by. */
  roleUnbound: boolean
  /** Tables that have the policy and do not enforce it. */
  open: string[]
}

export async function readWall(sql: Sql): Promise<WallFacts> {
  const [row] = await sql<WallFacts[]>`
    select exists (select 1 from pg_roles where rolname = ${TENANT_ROLE}) as "roleThere",
      exists (select 1 from pg_roles where rolname = ${TENANT_ROLE} and (rolsuper or rolbypassrls)) as "roleUnbound",
      (select coalesce(array_agg(c.relname::text order by c.relname), '{}') from pg_policies p
        join pg_class c on c.relname = p.tablename join pg_namespace n on n.oid = c.relnamespace and n.nspname = p.schemaname
       where p.policyname = 'tenant' and p.schemaname = current_schema() and not c.relrowsecurity) as open`
  return row!
}

/** Indexes that serve nobody: what a concurrent build left when it failed, or is about to finish. */
export async function readInvalidIndexes(sql: Sql): Promise<{ name: string; building: boolean }[]> {
  return sql<{ name: string; building: boolean }[]>`
    select c.relname as name,
      exists (select 1 from pg_stat_progress_create_index p where p.index_relid = i.indexrelid) as building
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
    where not i.indisvalid and n.nspname = current_schema() order by 1`
}

/** How far the server's clock is ahead of `now()`, in milliseconds, by the quickest of a few questions. */
export async function measureClockSkew(sql: Sql, now: () => number, tries = 5): Promise<number> {
  let best = { tookMs: Number.POSITIVE_INFINITY, skewMs: 0 }
  for (let i = 0; i < tries; i++) {
    const asked = now()
    const [row] = await sql<{ ms: number }[]>`select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms`
    const answered = now()
    const tookMs = answered - asked
    if (tookMs < best.tookMs) best = { tookMs, skewMs: row!.ms - (asked + answered) / 2 }
  }
  return best.skewMs
}
