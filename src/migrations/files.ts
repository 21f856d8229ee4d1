import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { sha256 } from '../lib/ids.ts'

/** One file of drizzle-kit's folder. */
export interface Migration {
  /** Name of the file without `.sql`, such as `0001_jobs`. */
  name: string
  /** The journal's time in milliseconds; it orders the files and names them in the database. */
  when: number
  /** SHA-256 of the whole file, as drizzle's own migrator keeps it. */
  hash: string
  text: string
  statements: string[]
  /** False for a file marked `-- lobu:no-transaction`, for what Postgres refuses inside one: CREATE INDEX CONCURRENTLY. */
  inTransaction: boolean
}

/** A row of `drizzle.__drizzle_migrations`. */
export interface AppliedMigration {
  hash: string
  when: number
}

const Journal = z.object({ entries: z.array(z.object({ tag: z.string(), when: z.number().int() })) })
const NO_TRANSACTION = /^--\s*lobu:no-transaction\s*$/m

/**
 * Reads the journal in `<dir>/meta/_journal.json` and its files, oldest first.
 *
 * @throws Error when a file is missing, the times do not rise, or a file without transaction holds two statements in one part.
 */
export async function readMigrations(dir: string): Promise<Migration[]> {
  const journal = Journal.parse(JSON.parse(await readFile(path.join(dir, 'meta/_journal.json'), 'utf8')))
  const migrations = await Promise.all(
    journal.entries.map(async ({ tag, when }) =>
      parseMigration(tag, when, await readFile(path.join(dir, `${tag}.sql`), 'utf8')),
    ),
  )
  migrations.forEach((migration, index) => {
    const before = migrations[index - 1]
    if (before !== undefined && before.when >= migration.when) {
      throw new Error(`Migration ${migration.name} is not newer than ${before.name} in the journal: generate it again.`)
    }
  })
  return migrations
}

function parseMigration(name: string, when: number, text: string): Migration {
  const statements = text.split('--> statement-breakpoint').filter((part) => withoutComments(part) !== '')
  const inTransaction = !NO_TRANSACTION.test(text)
  if (!inTransaction && statements.some((part) => withoutComments(part).replace(/;$/, '').includes(';'))) {
    throw new Error(
      `Migration ${name} runs without transaction: put "--> statement-breakpoint" between its statements.`,
    )
  }
  return { name, when, hash: sha256(text), text, statements, inTransaction }
}

function withoutComments(sql: string) {
  return sql.replaceAll(/--.*$/gm, '').trim()
}

/**
 * What is still to be done, oldest first, and how many applied ones this build does not know.
 *
 * @throws Error when an applied file was edited since, or a file that was never applied is older than an applied one.
 */
export function compare(
  migrations: Migration[],
  applied: AppliedMigration[],
): { pending: Migration[]; unknown: number } {
  const hashes = new Map(applied.map((row) => [row.when, row.hash]))
  const newest = Math.max(Number.NEGATIVE_INFINITY, ...hashes.keys())
  const pending: Migration[] = []
  for (const migration of migrations) {
    const hash = hashes.get(migration.when)
    hashes.delete(migration.when)
    if (hash === undefined) pending.push(migration)
    else if (hash !== migration.hash) {
      throw new Error(
        `Migration ${migration.name} was edited after it had been applied: restore it and write a new one.`,
      )
    }
  }
  const late = pending.find((migration) => migration.when < newest)
  if (late !== undefined) {
    throw new Error(
      `Migration ${late.name} is older than one that is applied already: generate it again, with a new time.`,
    )
  }
  return { pending, unknown: hashes.size }
}
