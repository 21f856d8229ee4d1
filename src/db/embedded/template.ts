import { randomUUID } from 'node:crypto'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Writes a freshly initialised cluster as a compressed tar, from which a new database starts three times as fast and with
 * half the peak of memory. Whole or not at all, also when several processes do it at once. For build and test scripts:
 * it keeps the event loop busy for seconds.
 */
export async function createTemplate(file: string): Promise<void> {
  const { PGlite } = await import('@electric-sql/pglite')
  const db = await PGlite.create()
  await db.exec('checkpoint')
  const tar = await db.dumpDataDir('gzip')
  await db.close()
  const draft = `${file}.${randomUUID()}`
  await mkdir(dirname(file), { recursive: true })
  try {
    await writeFile(draft, tar.stream())
    await rename(draft, file)
  } finally {
    await rm(draft, { force: true })
  }
}
