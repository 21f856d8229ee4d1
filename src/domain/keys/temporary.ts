import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { createApiKey, type NewApiKey } from '../accounts/api-keys.ts'
import { ensureOrganization } from '../accounts/bootstrap.ts'
import type { Permission } from '../accounts/permissions.ts'

/** Enough to talk, and to make no further key. */
const SCOPES: Permission[] = ['conversations:use']

/**
 * For whoever holds the database's URL: a key of the oldest organization that can do nothing but talk and is good for
 * `lastsMs` only. Where there is no organization yet, the first one is made, as its first start would.
 */
export async function createTemporaryKey(
  sql: Sql,
  { name, lastsMs }: { name: string; lastsMs: number },
): Promise<NewApiKey & { organizationSlug: string }> {
  return inTransaction(sql, async (tx) => {
    const organization = (await findOldest(tx)) ?? (await makeFirst(tx))
    const expiresAt = new Date(Date.now() + lastsMs)
    const key = await createApiKey(tx, {
      organizationId: organization.id,
      userId: null,
      name,
      scopes: SCOPES,
      expiresAt,
    })
    return { ...key, organizationSlug: organization.slug }
  })
}

/** Ends it before its time; replicas that remember it forget it within seconds. */
export async function revokeTemporaryKey(sql: Sql, { id }: { id: string }): Promise<void> {
  await sql`update api_keys set revoked_at = now() where id = ${id} and revoked_at is null`
}

async function findOldest(tx: Sql) {
  const rows = await tx<{ id: string; slug: string }[]>`
    select id, slug from organizations order by created_at, id limit 1`
  return rows[0]
}

async function makeFirst(tx: Sql) {
  await ensureOrganization(tx)
  return (await findOldest(tx))!
}
