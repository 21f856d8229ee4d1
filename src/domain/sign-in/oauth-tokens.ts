import type { Sql } from '../../db/client.ts'
import { removeRows } from '../../db/remove-rows.ts'
import { sha256 } from '../../lib/ids.ts'
import { ACCESS_TOKEN_PREFIX, REFRESH_TOKEN_PREFIX } from '../accounts/access-token.ts'
import { CLI_CLIENT_ID } from './oauth-clients.ts'

/** As better-auth is told to keep tokens: by their SHA-256, without the prefix. */
const hashOf = (refreshToken: string) => sha256(refreshToken.slice(REFRESH_TOKEN_PREFIX.length))

/**
 * What has become of a refresh token that was refused: `waiting` while another request rotates it and its outcome is not
 * stored yet, `done` when the outcome can be had by asking again, `none` when it was refused for itself.
 */
export async function isRotationUnderWay(sql: Sql, refreshToken: string): Promise<'waiting' | 'done' | 'none'> {
  const [row] = await sql<{ stored: boolean }[]>`
    select rotation_replay_response is not null as stored from oauth_refresh_tokens
    where token = ${hashOf(refreshToken)} and rotated_at is not null and rotation_replay_expires_at > now()`
  if (!row) return 'none'
  return row.stored ? 'done' : 'waiting'
}

/**
 * Whose token it is, when a refresh token of this client was rotated or revoked before, so that using it again is no
 * accident any more; else null.
 */
export async function ownerIfUsedBefore(
  sql: Sql,
  args: { refreshToken: string; clientId: string },
): Promise<string | null> {
  const [found] = await sql<{ userId: string }[]>`
    select user_id as "userId" from oauth_refresh_tokens
    where token = ${hashOf(args.refreshToken)} and client_id = ${args.clientId} and revoked is not null
      and (rotation_replay_expires_at is null or rotation_replay_expires_at <= now())`
  return found?.userId ?? null
}

/**
 * Ends a token of this client; a refresh token with its whole family: all that came of the same approval, whatever was
 * rotated since. Other devices of the same person with the same client go on, which is why better-auth is not asked: for
 * it they are one family. False when there was nothing to end.
 */
export async function revokeToken(
  sql: Sql,
  { token, clientId }: { token: string; clientId: string },
): Promise<boolean> {
  if (!token.startsWith(REFRESH_TOKEN_PREFIX)) {
    const hash = sha256(token.slice(ACCESS_TOKEN_PREFIX.length))
    const removed = await sql`
      delete from oauth_access_tokens where token = ${hash} and client_id = ${clientId} returning 1`
    return removed.length > 0
  }
  // Access tokens go with their refresh token.
  const removed = await sql`
    delete from oauth_refresh_tokens r using oauth_refresh_tokens named
    where named.token = ${hashOf(token)} and named.client_id = ${clientId} and r.client_id = named.client_id
      and (r.id = named.id or (r.authorization_code_id = named.authorization_code_id and r.user_id = named.user_id))
    returning 1`
  return removed.length > 0
}

/** Whether an authorization code was exchanged for tokens that are still on record. */
export async function wasExchanged(sql: Sql, code: string): Promise<boolean> {
  return (await sql`select 1 from oauth_access_tokens where authorization_code_id = ${sha256(code)} limit 1`).length > 0
}

/** Whether a refresh token is still on record, rotated or not. It is not once its family was ended. */
export async function isOnRecord(sql: Sql, refreshToken: string): Promise<boolean> {
  return (await sql`select 1 from oauth_refresh_tokens where token = ${hashOf(refreshToken)}`).length > 0
}

/**
 * Names the family of what a device was given. better-auth hands the name on at each rotation, and gives one by itself only
 * to what a code was exchanged for.
 */
export async function nameDeviceFamily(sql: Sql, refreshToken: string): Promise<void> {
  await sql`
    update oauth_refresh_tokens set authorization_code_id = 'device:' || id
    where token = ${hashOf(refreshToken)} and authorization_code_id is null`
}

/** A client that nobody let in is kept a week. */
const UNUSED_KEEP = '7 days'

/**
 * Removes tokens and device codes that expired more than `keepMs` ago, and clients that registered themselves and that
 * nobody let in. Access tokens go with their refresh token. Returns how many rows the fullest of the statements removed.
 */
export async function removeExpiredGrants(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  const expired = sql`expires_at < now() - ${keepMs} * interval '1 millisecond'`
  const first = sql`expires_at`
  const removed = [
    // First, since access tokens go along: of two replicas that each held some of the other's they would wait in a circle.
    await removeRows(sql, { table: 'oauth_refresh_tokens', key: ['id'], due: expired, first, rowsMax }),
    await removeRows(sql, { table: 'oauth_access_tokens', key: ['id'], due: expired, first, rowsMax }),
    await removeRows(sql, { table: 'device_codes', key: ['id'], due: expired, first, rowsMax }),
    await removeRows(sql, { table: 'oauth_client_assertions', key: ['id'], due: expired, rowsMax }),
    await removeRows(sql, {
      ...{ table: 'oauth_clients', key: ['id'], rowsMax },
      due: sql`
        client_id <> ${CLI_CLIENT_ID} and created_at < now() - ${UNUSED_KEEP}::interval
        and not exists (select from oauth_consents where client_id = oauth_clients.client_id)
        and not exists (select from oauth_refresh_tokens where client_id = oauth_clients.client_id)
        and not exists (select from oauth_access_tokens where client_id = oauth_clients.client_id)
        and not exists (select from api_keys where client_id = oauth_clients.client_id and revoked_at is null)`,
    }),
  ]
  return Math.max(...removed)
}
