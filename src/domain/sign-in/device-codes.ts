import { randomUUID } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { type AppActor, recordApp } from './app-audit.ts'
import { type Client, findClient } from './oauth-clients.ts'

/**
 * Codes that one person may try in ten minutes. A code has 40 bits and lives ten minutes, so guessing is hopeless even
 * with many accounts; this keeps somebody from trying.
 */
const TRIES_MAX = 20
const TRIES_MS = 600_000

export interface DeviceRequest {
  userCode: string
  client: Client
  scopes: string[]
}

/** As a person types it: the dash of the display and lower case are theirs. */
export function toUserCode(typed: string): string {
  return typed.replace(/[^a-z0-9]/gi, '').toUpperCase()
}

/**
 * The request that waits under a code; null when there is none, or somebody else has opened it before. From now on only
 * this person can decide it. Safe when two open it at once: one of them gets it.
 */
export async function openDeviceRequest(
  sql: Sql,
  { typed, userId }: { typed: string; userId: string },
): Promise<DeviceRequest | 'too many tries' | null> {
  if ((await countTry(sql, userId)) > TRIES_MAX) return 'too many tries'
  const [row] = await sql<{ clientId: string; scope: string | null; userCode: string }[]>`
    update device_codes set user_id = ${userId}
    where user_code = ${toUserCode(typed)} and status = 'pending' and expires_at > now() and oauth_client_id is not null
      and (user_id is null or user_id = ${userId})
    returning oauth_client_id as "clientId", scope, user_code as "userCode"`
  const client = row && (await findClient(sql, row.clientId))
  if (!client) return null
  return { userCode: row.userCode, client, scopes: (row.scope ?? '').split(' ').filter(Boolean) }
}

/** Approves or denies, once. False when the request has expired, was decided before, or is not this person's. */
export async function decideDeviceRequest(
  sql: Sql,
  { userCode, accept, actor }: { userCode: string; accept: boolean; actor: AppActor },
): Promise<boolean> {
  return inTransaction(sql, async (tx) => {
    const [decided] = await tx<{ clientId: string; scope: string | null }[]>`
      update device_codes set status = ${accept ? 'approved' : 'denied'}
      where user_code = ${toUserCode(userCode)} and user_id = ${actor.userId} and status = 'pending'
        and expires_at > now()
      returning oauth_client_id as "clientId", scope`
    if (!decided) return false
    const { clientId, scope } = decided
    if (accept)
      await recordApp(tx, actor, { action: 'app.approved', clientId, details: { scopes: scope, device: true } })
    return true
  })
}

/** Counted before the code is looked at, in one statement, so that many at once do not get more. */
async function countTry(sql: Sql, userId: string): Promise<number> {
  const now = Date.now()
  const [row] = await sql<{ count: number }[]>`
    insert into sign_in_rate_limits (id, key, count, last_request)
    values (${randomUUID()}, ${`device-code|${userId}`}, 1, ${now})
    on conflict (key) do update set
      count = case when sign_in_rate_limits.last_request < ${now - TRIES_MS} then 1 else sign_in_rate_limits.count + 1 end,
      last_request = case when sign_in_rate_limits.last_request < ${now - TRIES_MS} then ${now}
        else sign_in_rate_limits.last_request end
    returning count`
  return row!.count
}
