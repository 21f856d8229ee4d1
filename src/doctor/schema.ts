import type { Config } from '../config.ts'
import type { Sql } from '../db/client.ts'
import { readInvalidIndexes, readRights, readWall } from '../db/inspect.ts'
import { scopeToOrganization } from '../db/tenant.ts'
import { explainMissingTenantRole } from '../db/tenant-role.ts'
import { findKeyFault } from '../domain/secrets/canary.ts'
import { createSecretsEnvelope, type EncryptionSettings } from '../domain/secrets/keys.ts'
import { migrationsFolder } from '../migrations/folder.ts'
import { type SchemaState, schemaState } from '../migrations/run.ts'
import { type Finding, fail, ok, skip, warn } from './finding.ts'

/** All that needs our tables, or says that they are not there. */
export async function checkSchema(sql: Sql, config: Config, secrets: EncryptionSettings | null): Promise<Finding[]> {
  const state = await schemaState(sql, migrationsFolder())
  const findings = [schemaFinding(state, config), await checkIndexes(sql)]
  if (state.applied === 0)
    return [...findings, await checkFutureWall(sql), skip('encryption', 'there is no schema yet')]
  return [
    ...findings,
    await checkWall(sql),
    state.behind.length > 0 ? skip('encryption', 'the schema is behind') : await checkKeys(sql, secrets),
    await checkReplicas(sql),
  ]
}

function schemaFinding({ applied, known, behind, ahead }: SchemaState, { db }: Config): Finding {
  if (behind.length > 0) {
    const detail = `${applied === 0 ? 'empty' : 'behind'}: lacks ${behind.join(', ')}`
    // Without the setting the next start migrates by itself.
    if (!db.skipMigrations) return warn('schema', detail, 'run "lobu migrate", or start a gateway, which does')
    return fail('schema', detail, 'run "lobu migrate"')
  }
  if (ahead)
    return warn(
      'schema',
      `ahead: ${applied} migrations, this release knows ${known}`,
      'upgrade this gateway soon: one release back is tolerated',
    )
  return ok('schema', `current, ${applied} migrations`)
}

async function checkIndexes(sql: Sql): Promise<Finding> {
  const invalid = await readInvalidIndexes(sql)
  const left = invalid.filter(({ building }) => !building).map(({ name }) => name)
  if (left.length > 0) {
    const fix = left.map((name) => `reindex index concurrently "${name}";`).join(' ')
    return fail('indexes', `invalid: ${left.join(', ')}`, `run ${fix}`)
  }
  return ok('indexes', invalid.length > 0 ? `being built: ${invalid.map(({ name }) => name).join(', ')}` : 'all valid')
}

/** Whether the database itself keeps organizations apart: looks at the policies, then tries to see something. */
async function checkWall(sql: Sql): Promise<Finding> {
  const { roleUnbound, open } = await readWall(sql)
  if (roleUnbound)
    return fail(
      'row security',
      'lobu_tenant passes it by',
      'run "alter role lobu_tenant nosuperuser nobypassrls" as a superuser',
    )
  if (open.length > 0)
    return fail(
      'row security',
      `off for ${open.join(', ')}`,
      `run ${open.map((name) => `alter table "${name}" enable row level security;`).join(' ')}`,
    )
  const fault = await explainMissingTenantRole(sql)
  if (fault !== null)
    return warn(
      'row security',
      'off: the conditions in our queries are the only wall',
      fault.replace(/^Row-level security is off: /, ''),
    )
  const [seen] = await scopeToOrganization(sql, 'nobody')<
    { any: boolean }[]
  >`select exists (select 1 from agents) as any`
  if (seen!.any)
    return fail(
      'row security',
      'a stranger sees agents of organizations',
      'run "lobu migrate" as the owner of the tables',
    )
  return ok('row security', 'in force')
}

/** Before there is a schema: whether `migrate` will be able to make the role that row-level security binds. */
async function checkFutureWall(sql: Sql): Promise<Finding> {
  const { roleThere } = await readWall(sql)
  const { superuser, createRole, user } = await readRights(sql)
  if (roleThere || superuser || createRole) return ok('row security', 'comes with the schema')
  const fix = `run "create role lobu_tenant nologin; grant lobu_tenant to "${user}";" as a superuser before migrating`
  return warn('row security', 'this user may not create the role lobu_tenant', fix)
}

async function checkKeys(sql: Sql, secrets: EncryptionSettings | null): Promise<Finding> {
  if (secrets === null) return skip('encryption', 'the secrets are not complete')
  const fault = await findKeyFault({ sql, envelope: createSecretsEnvelope(secrets) })
  if (fault === null) return ok('encryption', 'the keys at hand open what is stored')
  return fail('encryption', 'the keys at hand do not open all that is stored', fault)
}

/** Replicas that run now. A lease that ends far ahead was given by a clock that has been set back since. */
async function checkReplicas(sql: Sql): Promise<Finding> {
  const rows = await sql<{ version: string; alive: boolean; odd: boolean }[]>`
    select version, lease_until > now() as alive, lease_until > now() + interval '15 minutes' or started_at > now() + interval '1 minute' as odd
    from replicas order by started_at`
  const alive = rows.filter((row) => row.alive)
  if (rows.some((row) => row.odd))
    return fail(
      'replicas',
      "a lease ends in the far future: the database's clock was set back",
      'correct the clock of the database server, then restart the gateways',
    )
  const versions = [...new Set(alive.map(({ version }) => version))]
  const detail =
    alive.length === 0
      ? 'none runs'
      : `${alive.length} ${alive.length === 1 ? 'runs' : 'run'}, release ${versions.join(' and ')}`
  if (versions.length > 1) return warn('replicas', detail, 'finish the upgrade that is under way')
  return ok('replicas', detail)
}
