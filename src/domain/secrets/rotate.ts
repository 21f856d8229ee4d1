import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import type { Envelope, Place } from '../../lib/envelope.ts'
import { recordAudit } from '../audit/record.ts'
import { settingsPlace } from '../conversations/confidential.ts'
import { forgetUnusedKeys, missingKeyIds } from './canary.ts'
import { type SecretKind, secretPlace } from './store.ts'

/** Rows of one transaction: their locks are held for some tens of milliseconds. */
const BATCH_ROWS = 200

export interface Rotation {
  /** Values that an older key had sealed, and the current one seals now. */
  resealed: number
  /** Values that were changed or moved by hand: they open with no key. They stay as they are. */
  damaged: number
  /** Keys that sealed something and are not at hand. */
  missingKeyIds: string[]
}

/**
 * Seals anew, with the current key, what older ones have sealed. In batches, while gateways read and write; it can be cut
 * short and called again, and any number of callers share the work. Keys that are no longer needed are forgotten.
 * @throws Error when no gateway has started with the current key: those that run could not read what it seals.
 */
export async function rotateSecrets(
  { sql, envelope }: { sql: Sql; envelope: Envelope },
  { batchRows = BATCH_ROWS } = {},
): Promise<Rotation> {
  await requireKnownKey(sql, envelope)
  const rotation = { resealed: 0, damaged: 0 }
  for (const table of TABLES) {
    const done = await rotateTable({ sql, envelope, table, batchRows })
    rotation.resealed += done.resealed
    rotation.damaged += done.damaged
  }
  if (rotation.damaged === 0) await forgetUnusedKeys(sql, envelope)
  return { ...rotation, missingKeyIds: await missingKeyIds(sql, envelope) }
}

async function requireKnownKey(sql: Sql, { keyId }: Envelope) {
  const known = await sql`select 1 from encryption_canaries where key_id = ${keyId}`
  if (known.length > 0) return
  throw new Error('No gateway has started with this key yet: start all replicas with it first, then rotate.')
}

/** A row whose text is to be sealed anew. */
interface SealedRow {
  /** Its key; the order of rows is by its parts. */
  key: string[]
  sealed: string
  place: Place
}

interface SealedTable {
  /** Rows behind a key that one of these keys has sealed, in order, locked. */
  read(tx: Sql, args: { keyIds: string[]; after: string[]; limit: number }): Promise<SealedRow[]>
  write(tx: Sql, args: { keyId: string; rows: SealedRow[] }): Promise<void>
  count(sql: Sql, keyIds: string[]): Promise<number>
}

type RotateArgs = { sql: Sql; envelope: Envelope; table: SealedTable; batchRows: number }

/** Passes until only damaged rows are left: rows that another rotation holds vanish from a batch once it commits. */
async function rotateTable(args: RotateArgs): Promise<{ resealed: number; damaged: number }> {
  const { sql, envelope, table } = args
  const older = envelope.keyIds.filter((id) => id !== envelope.keyId)
  let resealed = 0
  for (;;) {
    const pass = await rotatePass(args, older)
    resealed += pass.resealed
    if ((await table.count(sql, older)) <= pass.damaged) return { resealed, damaged: pass.damaged }
  }
}

async function rotatePass({ sql, envelope, table, batchRows }: RotateArgs, keyIds: string[]) {
  const pass = { resealed: 0, damaged: 0 }
  let after: string[] = []
  for (;;) {
    const batch = await inTransaction(sql, async (tx) => {
      const rows = await table.read(tx, { keyIds, after, limit: batchRows })
      const opened = rows.flatMap((row) => reseal(envelope, row))
      if (opened.length > 0) await table.write(tx, { keyId: envelope.keyId, rows: opened })
      return { rows, opened }
    })
    pass.resealed += batch.opened.length
    pass.damaged += batch.rows.length - batch.opened.length
    const last = batch.rows.at(-1)
    if (!last) return pass
    after = last.key
  }
}

function reseal(envelope: Envelope, row: SealedRow): SealedRow[] {
  try {
    return [{ ...row, sealed: envelope.seal(envelope.open(row.sealed, row.place), row.place) }]
  } catch {
    return []
  }
}

/** Column `at` of the rows' keys, as one array. */
const column = (rows: SealedRow[], at: number) => rows.map((row) => row.key[at]!)
const sealedOf = (rows: SealedRow[]) => rows.map((row) => row.sealed)

const secrets: SealedTable = {
  async read(tx, { keyIds, after: [organization = '', agent = '', kind = '', name = ''], limit }) {
    const rows = await tx<
      { organizationId: string; agentId: string; kind: SecretKind; name: string; sealed: string }[]
    >`
      select organization_id as "organizationId", agent_id as "agentId", kind, name, sealed from secrets
      where key_id = any(${keyIds}::text[]) and (organization_id, agent_id, kind, name) > (${organization}, ${agent}, ${kind}, ${name})
      order by organization_id, agent_id, kind, name limit ${limit} for update`
    return rows.map(({ sealed, ...key }) => ({
      key: [key.organizationId, key.agentId, key.kind, key.name],
      sealed,
      place: secretPlace(key),
    }))
  },
  /** `updated_at` stays: the value is the same. */
  async write(tx, { keyId, rows }) {
    await tx`
      update secrets s set sealed = r.sealed, key_id = ${keyId}
      from unnest(${column(rows, 0)}::text[], ${column(rows, 1)}::text[], ${column(rows, 2)}::text[],
        ${column(rows, 3)}::text[], ${sealedOf(rows)}::text[]) as r (organization_id, agent_id, kind, name, sealed)
      where s.organization_id = r.organization_id and s.agent_id = r.agent_id and s.kind = r.kind and s.name = r.name`
    for (const organizationId of new Set(column(rows, 0))) {
      const count = rows.filter(({ key }) => key[0] === organizationId).length
      const actor = { kind: 'system' as const, credentialId: 'lobu secrets rotate', organizationId, userId: 'system' }
      const entry = { action: 'secrets.resealed', targetKind: 'encryption_key', targetId: keyId, details: { count } }
      await recordAudit(tx, actor, entry)
    }
  },
  async count(sql, keyIds) {
    const [row] = await sql<{ count: number }[]>`
      select count(*)::int as count from secrets where key_id = any(${keyIds}::text[])`
    return row!.count
  },
}

const conversations: SealedTable = {
  async read(tx, { keyIds, after: [organization = '', conversation = ''], limit }) {
    const rows = await tx<
      { organizationId: string; id: string; agentId: string; userId: string; thread: string; sealed: string }[]
    >`
      select organization_id as "organizationId", id, agent_id as "agentId", user_id as "userId", thread,
        sealed_settings as sealed from conversations
      where settings_key_id = any(${keyIds}::text[]) and (organization_id, id) > (${organization}, ${conversation})
      order by organization_id, id limit ${limit} for update`
    return rows.map((row) => ({ key: [row.organizationId, row.id], sealed: row.sealed, place: settingsPlace(row) }))
  },
  async write(tx, { keyId, rows }) {
    await tx`
      update conversations c set sealed_settings = r.sealed, settings_key_id = ${keyId}
      from unnest(${column(rows, 0)}::text[], ${column(rows, 1)}::text[], ${sealedOf(rows)}::text[])
        as r (organization_id, id, sealed)
      where c.organization_id = r.organization_id and c.id = r.id`
  },
  async count(sql, keyIds) {
    const [row] = await sql<{ count: number }[]>`
      select count(*)::int as count from conversations where settings_key_id = any(${keyIds}::text[])`
    return row!.count
  },
}

const TABLES = [secrets, conversations]
