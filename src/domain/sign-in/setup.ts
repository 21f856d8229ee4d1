import { randomBytes } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import type { Origin } from '../accounts/actor.ts'
import { BOOTSTRAP_LOCK, ensureOrganization, ensurePlaceholder } from '../accounts/bootstrap.ts'
import { recordAudit } from '../audit/record.ts'

const LINK_HOURS = 24

export interface SetupPerson {
  name: string
  email: string
  /** As better-auth hashes it. */
  passwordHash: string
}

/** True until the default organization, or any where that one is gone, has an owner who can sign in. */
export async function needsSetup(sql: Sql): Promise<boolean> {
  const rows = await sql`
    select 1 from members m
    join organizations o on o.id = m.organization_id
    join users u on u.id = m.user_id
    where m.role = 'owner'
      and (o.is_default or not exists (select 1 from organizations where is_default))
      and (u.email_verified or exists (select 1 from user_accounts a where a.user_id = u.id)
        or exists (select 1 from passkeys p where p.user_id = u.id))
    limit 1`
  return rows.length === 0
}

/**
 * A new link's token for a fresh install; null when the gateway has an owner. Only its hash is kept. Replicas that start
 * at once have one each; all are good until the first is used.
 */
export async function createSetupLink(sql: Sql): Promise<string | null> {
  if (!(await needsSetup(sql))) return null
  const token = randomBytes(32).toString('base64url')
  await sql`delete from setup_links where expires_at < now()`
  await sql`
    insert into setup_links (token_hash, expires_at)
    values (${sha256(token)}, now() + make_interval(hours => ${LINK_HOURS}))`
  return token
}

/**
 * Makes the holder of the link the owner of the default organization. They take the place of the placeholder that
 * `bootstrap` made, so keys and conversations of that one are theirs. However many try at once, one succeeds.
 *
 * @throws AppError 'conflict' when there is an owner already or the address is taken, 'not_found' for a link that is
 *   unknown, used or expired.
 */
export async function completeSetup(
  sql: Sql,
  args: { token: string; person: SetupPerson; origin: Origin },
): Promise<{ userId: string; organizationId: string }> {
  const email = args.person.email.toLowerCase()
  return inTransaction(sql, async (tx) => {
    await tx`select pg_advisory_xact_lock(${BOOTSTRAP_LOCK})`
    if (!(await needsSetup(tx))) throw new AppError('conflict', 'This gateway has an owner already; sign in instead')
    const used = await tx`
      update setup_links set used_at = now()
      where token_hash = ${sha256(args.token)} and used_at is null and expires_at > now() returning 1`
    if (used.length === 0) {
      throw new AppError('not_found', 'This link is unknown, used or expired; restart the gateway for a new one')
    }
    const organizationId = await ensureOrganization(tx)
    const userId = await ensurePlaceholder(tx, organizationId)
    const taken = await tx`select 1 from users where email = ${email} and id <> ${userId}`
    if (taken.length > 0) throw new AppError('conflict', 'Somebody has an account with this address already')
    await becomeOwner(tx, { ...args.person, userId, email })
    const actor = { kind: 'user' as const, credentialId: 'setup', organizationId, userId, origin: args.origin }
    await recordAudit(tx, actor, { action: 'organization.set_up', targetKind: 'user', targetId: userId })
    return { userId, organizationId }
  })
}

/**
 * Whoever reads the log is believed about their address: else the first link by mail would take the password away, as it
 * does from accounts that somebody else may have made in their name. The row of a password is what better-auth makes at a
 * sign-up: its account id is the person's own.
 */
async function becomeOwner(tx: Sql, { userId, name, email, passwordHash }: SetupPerson & { userId: string }) {
  await tx`update users set name = ${name}, email = ${email}, email_verified = true, updated_at = now() where id = ${userId}`
  await tx`
    insert into user_accounts (id, account_id, provider_id, user_id, password)
    values (${randomBytes(16).toString('base64url')}, ${userId}, 'credential', ${userId}, ${passwordHash})`
}
