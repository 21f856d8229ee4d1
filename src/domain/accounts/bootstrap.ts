import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { newId } from '../../lib/ids.ts'
import { ensureDefaultAgent } from '../agents/default-agent.ts'
import { createApiKey } from './api-keys.ts'

export const ORGANIZATION = { slug: 'default', name: 'Default organization' }
const OWNER = { email: 'owner@localhost', name: 'Owner' }
/** Transaction lock: two replicas that start at once on an empty database make one organization. */
export const BOOTSTRAP_LOCK = 7_262_027_002

/** True while nobody could sign in: no organization has an API key. */
export async function needsBootstrap(sql: Sql): Promise<boolean> {
  const rows = await sql`select 1 from api_keys limit 1`
  return rows.length === 0
}

/**
 * Makes the first organization with its owner and its default agent, where they do not exist yet, and one new API key,
 * which is returned and stored only as a hash. With `onlyFirst` nothing is made when there is a key already.
 */
export async function bootstrap(
  sql: Sql,
  { onlyFirst }: { onlyFirst: boolean },
): Promise<{ organizationSlug: string; id: string; token: string } | null> {
  return inTransaction(sql, async (tx) => {
    await tx`select pg_advisory_xact_lock(${BOOTSTRAP_LOCK})`
    if (onlyFirst && !(await needsBootstrap(tx))) return null
    const organizationId = await ensureOrganization(tx)
    const userId = (await findOwner(tx, organizationId)) ?? (await ensurePlaceholder(tx, organizationId))
    await ensureDefaultAgent(tx, organizationId)
    const { id, token } = await createApiKey(tx, { organizationId, userId, name: 'bootstrap' })
    const [organization] = await tx<{ slug: string }[]>`select slug from organizations where id = ${organizationId}`
    return { organizationSlug: organization!.slug, id, token }
  })
}

/**
 * The default organization's id, whatever it is called by now; it is made, with its default agent, where it is missing. Its
 * first slug is reserved, so one that has it and is not marked was made by a replica of an earlier release.
 */
export async function ensureOrganization(tx: Sql): Promise<string> {
  const organizationId = (await findDefault(tx)) ?? (await makeDefault(tx))
  await ensureDefaultAgent(tx, organizationId)
  return organizationId
}

async function makeDefault(tx: Sql): Promise<string> {
  await tx`
    insert into organizations (id, slug, name, is_default)
    values (${newId('org')}, ${ORGANIZATION.slug}, ${ORGANIZATION.name}, true) on conflict do nothing`
  await tx`
    update organizations set is_default = true
    where slug = ${ORGANIZATION.slug} and not exists (select 1 from organizations where is_default)`
  return (await findDefault(tx))!
}

async function findDefault(tx: Sql): Promise<string | undefined> {
  const [row] = await tx<{ id: string }[]>`select id from organizations where is_default`
  return row?.id
}

async function findOwner(tx: Sql, organizationId: string): Promise<string | undefined> {
  const [row] = await tx<{ userId: string }[]>`
    select user_id as "userId" from members where organization_id = ${organizationId} and role = 'owner'
    order by created_at limit 1`
  return row?.userId
}

/**
 * An owner that nobody can sign in as: keys of a fresh install are theirs until a person takes the place with the setup
 * link (`domain/sign-in/setup.ts`).
 */
export async function ensurePlaceholder(tx: Sql, organizationId: string): Promise<string> {
  await tx`
    insert into users (id, email, name) values (${newId('user')}, ${OWNER.email}, ${OWNER.name})
    on conflict (email) do nothing`
  const [row] = await tx<{ id: string }[]>`select id from users where email = ${OWNER.email}`
  await tx`
    insert into members (organization_id, user_id, role) values (${organizationId}, ${row!.id}, 'owner')
    on conflict do nothing`
  return row!.id
}
