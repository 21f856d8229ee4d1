import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'

export interface MigrationsFolder {
  dir: string
  /** Writes the files and the journal anew. Keys are names such as `0000_first`; the journal's times follow the numbers. */
  write(files: Record<string, string>): Promise<void>
  remove(): Promise<void>
}

/** A folder as drizzle-kit makes it, in the system's temporary folder. */
export async function createMigrationsFolder(files: Record<string, string>): Promise<MigrationsFolder> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-migrations-'))
  await mkdir(path.join(dir, 'meta'))
  async function write(contents: Record<string, string>) {
    const names = Object.keys(contents).sort()
    const entries = names.map((tag, idx) => ({
      idx,
      version: '7',
      when: 1_000 + Number.parseInt(tag, 10),
      tag,
      breakpoints: true,
    }))
    await writeFile(
      path.join(dir, 'meta/_journal.json'),
      JSON.stringify({ version: '7', dialect: 'postgresql', entries }),
    )
    for (const name of names) await writeFile(path.join(dir, `${name}.sql`), contents[name]!)
  }
  await write(files)
  return { dir, write, remove: () => rm(dir, { recursive: true, force: true }) }
}
