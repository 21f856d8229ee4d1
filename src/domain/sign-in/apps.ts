import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import type { Actor } from '../accounts/actor.ts'
import { revokeKeysOfProgram } from '../keys/maker.ts'
import type { Signals } from '../signals.ts'
import { recordApp } from './app-audit.ts'

/** A program that a person let in, with all that it was given and still has. */
export interface App {
  clientId: string
  name: string
  scopes: string[]
  since: Date
}

export interface AppPage {
  apps: App[]
  nextCursor: string | null
}

/**
 * Programs the person let in, by client id. Consents, tokens and keys that a program made all count: a device is approved
 * without a consent that is kept.
 * @throws AppError 'forbidden' for whoever is not the person in a browser.
 */
export async function listApps(
  sql: Sql,
  { actor, cursor, limit }: { actor: Actor; cursor: string | undefined; limit: number },
): Promise<AppPage> {
  requirePerson(actor)
  const apps = await sql<App[]>`
    select c.client_id as "clientId", coalesce(c.name, c.client_id) as name, min(g.created_at) as since,
      array_agg(distinct scope) as scopes
    from (
      select client_id, scopes, created_at from oauth_consents where user_id = ${actor.userId}
      union all
      select client_id, scopes, created_at from oauth_refresh_tokens
      where user_id = ${actor.userId} and revoked is null and expires_at > now()
      union all
      select client_id, scopes, created_at from oauth_access_tokens
      where user_id = ${actor.userId} and revoked is null and expires_at > now()
      union all
      select client_id, scopes, created_at from api_keys
      where user_id = ${actor.userId} and client_id is not null and revoked_at is null
        and (expires_at is null or expires_at > now())
    ) g
    join oauth_clients c on c.client_id = g.client_id, unnest(g.scopes) scope
    where c.client_id > ${cursor ?? ''}
    group by c.client_id, c.name
    order by c.client_id limit ${limit + 1}`
  const page = apps.slice(0, limit)
  return { apps: page, nextCursor: apps.length > limit ? page.at(-1)!.clientId : null }
}

/**
 * Takes back all that the person gave a program: consent, tokens, codes that were not exchanged yet, and the API keys that
 * it has made for them in any organization. Holds on every replica when it resolves. The program itself stays known; others may use it.
 * @throws AppError 'not_found' when it has nothing of the person, 'forbidden' for whoever is not the person in a browser.
 */
export async function withdrawApp(
  { sql, signals }: { sql: Sql; signals: Signals },
  { actor, clientId }: { actor: Actor; clientId: string },
): Promise<void> {
  requirePerson(actor)
  const mine = { client_id: clientId, user_id: actor.userId }
  await inTransaction(sql, async (tx) => {
    const removed = [
      await tx`delete from oauth_consents where ${whereMine(tx, mine)} returning 1`,
      await tx`delete from oauth_access_tokens where ${whereMine(tx, mine)} returning 1`,
      await tx`delete from oauth_refresh_tokens where ${whereMine(tx, mine)} returning 1`,
      await tx`delete from device_codes where ${whereMine(tx, mine)} and status = 'approved' returning 1`,
      // better-auth keeps a code as JSON text of this shape.
      await tx`
        delete from verifications
        where case when value like '{"type":"authorization_code"%' then value::jsonb ->> 'userId' = ${mine.user_id}
          and value::jsonb -> 'query' ->> 'client_id' = ${clientId} else false end
        returning 1`,
    ]
    const keys = await revokeKeysOfProgram(tx, { clientId, userId: actor.userId })
    if (keys === 0 && removed.every((rows) => rows.length === 0))
      throw new AppError('not_found', 'You let in no such program')
    await recordApp(tx, actor, { action: 'app.withdrawn', clientId, ...(keys > 0 ? { details: { keys } } : {}) })
  })
  await enforceEverywhere(signals)
  // From here on the program is let in nowhere: what it had begun to make when it still was is ended now.
  const late = await revokeKeysOfProgram(sql, { clientId, userId: actor.userId })
  if (late > 0) await enforceEverywhere(signals)
}

function whereMine(tx: Sql, mine: { client_id: string; user_id: string }) {
  return tx`client_id = ${mine.client_id} and user_id = ${mine.user_id}`
}

/** A program must not be able to give itself longer, nor a key speak for its person's other programs. */
function requirePerson(actor: Actor): void {
  if (actor.kind !== 'user') throw new AppError('forbidden', 'Only a signed-in person can see and change this')
}
