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
    return { organizationSlug: ORGANIZATION.slug, id, token }
  })
}

/** The default organization's id; it is made, with its default agent, where it is missing. */
export async function ensureOrganization(tx: Sql): Promise<string> {
  await tx`
    insert into organizations (id, slug, name) values (${newId('org')}, ${ORGANIZATION.slug}, ${ORGANIZATION.name})
    on conflict (slug) do nothing`
  const [row] = await tx<{ id: string }[]>`select id from organizations where slug = ${ORGANIZATION.slug}`
  await ensureDefaultAgent(tx, row!.id)
  return row!.id
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
