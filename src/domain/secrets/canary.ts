import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import type { Envelope } from '../../lib/envelope.ts'

const SENTENCE = 'the canary sings'
/** Transaction lock: of replicas that start at once with different keys one must see the canary of the other. */
const CANARY_LOCK = 7_262_027_004

const placeOf = (keyId: string) => ['', 'encryption_canaries', keyId, 'sealed']

/**
 * Finds out at the start whether this process can open what is stored, and notes its key for the processes that start
 * later. Every key that was ever noted, or that has sealed something, must be at hand.
 * @throws Error with one sentence on what is wrong and what to do.
 */
export async function checkEncryptionKeys({ sql, envelope }: { sql: Sql; envelope: Envelope }): Promise<void> {
  await inTransaction(sql, async (tx) => {
    await tx`select pg_advisory_xact_lock(${CANARY_LOCK})`
    const fault = await findKeyFault({ sql: tx, envelope })
    if (fault !== null) throw new Error(fault)
    await tx`
      insert into encryption_canaries (key_id, sealed)
      values (${envelope.keyId}, ${envelope.seal(SENTENCE, placeOf(envelope.keyId))}) on conflict do nothing`
  })
}

/** The look of it alone: one sentence on why this process cannot open all that is stored; null when it can. */
export async function findKeyFault({ sql, envelope }: { sql: Sql; envelope: Envelope }): Promise<string | null> {
  const canaries = await sql<{ keyId: string; sealed: string }[]>`
    select key_id as "keyId", sealed from encryption_canaries order by key_id`
  const missing = await missingKeyIds(sql, envelope)
  if (missing.length > 0) return explainMissing(missing)
  const damaged = canaries.find((canary) => !opensCanary(envelope, canary))
  if (damaged === undefined) return null
  return `The row "${damaged.keyId}" of encryption_canaries is damaged: restore it from a backup, or remove it.`
}

/**
 * Ids of the keys that this process lacks for what is stored. The few ids among many rows are found one after the other by
 * the indexes secrets_key_idx and conversations_settings_key_idx, not by reading all rows.
 */
export async function missingKeyIds(sql: Sql, { keyIds }: Envelope): Promise<string[]> {
  const rows = await sql<{ keyId: string }[]>`
    with recursive of_secrets (id) as (
      select min(key_id) from secrets
      union all select (select min(key_id) from secrets where key_id > id) from of_secrets where id is not null),
    of_conversations (id) as (
      select min(settings_key_id) from conversations where settings_key_id is not null
      union all select (select min(settings_key_id) from conversations where settings_key_id > id)
        from of_conversations where id is not null)
    select id as "keyId" from (select id from of_secrets union select id from of_conversations
      union select key_id from encryption_canaries) ids where id is not null order by id`
  return rows.map(({ keyId }) => keyId).filter((keyId) => !keyIds.includes(keyId))
}

/** Keys by which nothing is sealed any more need not be kept. */
export async function forgetUnusedKeys(sql: Sql, { keyId, keyIds }: Envelope): Promise<void> {
  await sql`
    delete from encryption_canaries c where key_id <> ${keyId} and key_id = any(${[...keyIds]}::text[])
      and not exists (select 1 from secrets s where s.key_id = c.key_id)
      and not exists (select 1 from conversations s where s.settings_key_id = c.key_id)`
}

/**
 * Removes what a lost key has sealed, and the key's own row; returns how many values that were.
 * @throws Error for a key that is at hand: nothing is lost then.
 */
export async function discardLostKey(
  { sql, envelope }: { sql: Sql; envelope: Envelope },
  keyId: string,
): Promise<number> {
  if (envelope.keyIds.includes(keyId)) throw new Error(`The key ${keyId} is at hand, so nothing is lost.`)
  if (!(await missingKeyIds(sql, envelope)).includes(keyId)) throw new Error(`Nothing is sealed by a key ${keyId}.`)
  return inTransaction(sql, async (tx) => {
    const secrets = await tx`delete from secrets where key_id = ${keyId} returning 1`
    const settings = await tx`
      update conversations set sealed_settings = null, settings_key_id = null where settings_key_id = ${keyId} returning 1`
    await tx`delete from encryption_canaries where key_id = ${keyId}`
    return secrets.length + settings.length
  })
}

function opensCanary(envelope: Envelope, { keyId, sealed }: { keyId: string; sealed: string }): boolean {
  try {
    return envelope.open(sealed, placeOf(keyId)) === SENTENCE
  } catch {
    return false
  }
}

function explainMissing(missing: string[]): string {
  const names = missing.length === 1 ? `the key ${missing[0]}` : `the keys ${missing.join(', ')}`
  return (
    `Secrets in this database are sealed by ${names}, which this process does not have. Restore ENCRYPTION_KEY (where it ` +
    'is not set: JWT_SECRET and BETTER_AUTH_SECRET), or list the earlier key in ENCRYPTION_KEYS_OLD. If the key is lost, ' +
    '"lobu secrets discard <key id>" removes what nobody can open any more.'
  )
}
