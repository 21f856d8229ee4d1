import { createHash } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import { removeRows } from '../../db/remove-rows.ts'
import { newId } from '../../lib/ids.ts'
import { storable } from '../../lib/text.ts'

/** Bytes of a file that travel in one statement. */
const CHUNK_BYTES = 1024 * 1024

export interface StoredFile {
  id: string
  name: string
  mediaType: string
  bytes: number
  sha256: string
}

/**
 * Stores a file while it arrives, a chunk at a time; it belongs to nobody until a message names it. A file whose
 * upload breaks off is removed at once, and one that no message ever names after an hour.
 */
export async function storeFile(
  sql: Sql,
  args: { organizationId: string; conversationId: string; name: string; mediaType: string },
  content: AsyncIterable<Buffer>,
): Promise<StoredFile> {
  const id = newId('file')
  const file = { id, name: storable(args.name.slice(0, 255)), mediaType: storable(args.mediaType.slice(0, 127)) }
  const hash = createHash('sha256')
  let bytes = 0
  let ordinal = 0
  await sql`
    insert into files (organization_id, id, conversation_id, name, media_type, bytes, sha256)
    values (${args.organizationId}, ${id}, ${args.conversationId}, ${file.name}, ${file.mediaType}, 0, '')`
  try {
    for await (const chunk of rechunk(content)) {
      hash.update(chunk)
      bytes += chunk.length
      await sql`
        insert into file_chunks (organization_id, file_id, ordinal, data)
        values (${args.organizationId}, ${id}, ${ordinal++}, ${chunk})`
    }
    const sha256 = hash.digest('hex')
    await sql`
      update files set bytes = ${bytes}, sha256 = ${sha256} where organization_id = ${args.organizationId} and id = ${id}`
    return { ...file, bytes, sha256 }
  } catch (error) {
    await sql`delete from files where organization_id = ${args.organizationId} and id = ${id}`.catch(() => {})
    throw error
  }
}

/** The bytes of a file, whole. */
export async function readFile(sql: Sql, args: { organizationId: string; id: string }): Promise<Buffer> {
  const rows = await sql<{ data: Buffer }[]>`
    select data from file_chunks where organization_id = ${args.organizationId} and file_id = ${args.id} order by ordinal`
  return Buffer.concat(rows.map((row) => row.data))
}

/** Removes files that no message named within an hour. Returns how many, at most `filesMax`. */
export function removeStagedFiles(sql: Sql, { filesMax }: { filesMax: number }): Promise<number> {
  return removeRows(sql, {
    ...{ table: 'files', key: ['organization_id', 'id'], rowsMax: filesMax },
    due: sql`message_id is null and created_at < now() - interval '1 hour'`,
  })
}

async function* rechunk(content: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let held: Buffer[] = []
  let bytes = 0
  for await (const piece of content) {
    held.push(piece)
    bytes += piece.length
    if (bytes < CHUNK_BYTES) continue
    yield Buffer.concat(held)
    held = []
    bytes = 0
  }
  if (bytes > 0) yield Buffer.concat(held)
}
