import { createHash, randomBytes } from 'node:crypto'
import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { readFile, removeStagedFiles, storeFile } from './files.ts'

const MIB = 1024 * 1024

async function* inPieces(content: Buffer, bytes: number) {
  for (let at = 0; at < content.length; at += bytes) yield content.subarray(at, at + bytes)
}

async function placeIn(scene: Scene) {
  const conversationId = await scene.open()
  return { organizationId: scene.organizationId, conversationId, name: 'a.bin', mediaType: 'application/octet-stream' }
}

async function chunksOf(scene: Scene, id: string) {
  return scene.sql<{ bytes: number }[]>`
    select length(data) as bytes from file_chunks
    where organization_id = ${scene.organizationId} and file_id = ${id} order by ordinal`
}

describe('a file', () => {
  test.for([0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17])(
    'of %i bytes is read as it was stored',
    async (size, { world }) => {
      const scene = await createScene(world)
      const content = randomBytes(size)
      const file = await storeFile(scene.sql, await placeIn(scene), inPieces(content, 64 * 1024))

      expect(file).toMatchObject({ bytes: size, sha256: createHash('sha256').update(content).digest('hex') })
      const read = await readFile(scene.sql, { organizationId: scene.organizationId, id: file.id })
      expect(read.equals(content)).toBe(true)
      const chunks = await chunksOf(scene, file.id)
      expect(chunks).toHaveLength(Math.ceil(size / MIB))
    },
  )

  test('that breaks off leaves nothing behind', async ({ world }) => {
    const scene = await createScene(world)
    async function* broken() {
      yield randomBytes(2 * MIB)
      throw new Error('the client went away')
    }
    await expect(storeFile(scene.sql, await placeIn(scene), broken())).rejects.toThrow('the client went away')
    expect(await scene.sql`select 1 from files where organization_id = ${scene.organizationId}`).toEqual([])
    expect(await scene.sql`select 1 from file_chunks where organization_id = ${scene.organizationId}`).toEqual([])
  })

  test('has a name that can be stored, whatever the client sends', async ({ world }) => {
    const scene = await createScene(world)
    const place = { ...(await placeIn(scene)), name: `nul \0 ${'x'.repeat(300)}`, mediaType: 'text/pl\0ain' }
    const file = await storeFile(scene.sql, place, inPieces(Buffer.from('x'), 1))
    expect(file).toMatchObject({ name: `nul \uFFFD ${'x'.repeat(249)}`, mediaType: 'text/pl\uFFFDain' })
  })

  test("of another organization is not read, and its conversation's id opens no way", async ({ world }) => {
    const [mine, theirs] = [await createScene(world), await createScene(world)]
    const place = await placeIn(theirs)
    const file = await storeFile(theirs.sql, place, inPieces(Buffer.from('secret'), 6))

    expect(await readFile(mine.sql, { organizationId: mine.organizationId, id: file.id })).toHaveLength(0)
    const stolen = { ...place, organizationId: mine.organizationId }
    await expect(storeFile(mine.sql, stolen, inPieces(Buffer.from('x'), 1))).rejects.toThrow('files_conversation_fkey')
  })
})

describe('files that no message names', () => {
  test('are removed after an hour with their bytes, so many at a time', async ({ world }) => {
    const scene = await createScene(world)
    const place = await placeIn(scene)
    const store = async () => (await storeFile(scene.sql, place, inPieces(Buffer.from('x'), 1))).id
    const ids = [await store(), await store(), await store(), await store()]
    await scene.post(place.conversationId, { fileIds: [ids[3]!] })
    const old = ids.filter((id) => id !== ids[2])
    await scene.sql`update files set created_at = now() - interval '61 minutes' where id = any(${old}::text[])`

    expect(await removeStagedFiles(scene.sql, { filesMax: 1 })).toBe(1)
    expect(await removeStagedFiles(scene.sql, { filesMax: 5 })).toBe(1)
    expect(await removeStagedFiles(scene.sql, { filesMax: 5 })).toBe(0)
    const left = await scene.sql<{ file_id: string }[]>`
      select file_id from file_chunks where organization_id = ${scene.organizationId}`
    expect(left.map((row) => row.file_id).sort()).toEqual([ids[2]!, ids[3]!].sort())
  })
})
