import { generateDrizzleJson, generateMigration } from 'drizzle-kit/api'
import { getTableName } from 'drizzle-orm'
import { expect, inject } from 'vitest'
import { createTestDatabase } from '../../tests/support/database.ts'
import { test } from '../../tests/support/world.ts'
import type { Sql } from './client.ts'
import * as signInTables from './tables/sign-in.ts'
import * as tables from './tables.ts'

test('tables.ts says what the migrations made', async ({ world }) => {
  const migrated = await readCatalog((await world.replica()).sql)
  const described = await createTestDatabase(inject('testServer'), { log: world.log, empty: true })
  world.defer(described.drop)
  const database = await described.open()
  world.defer(database.close)
  for (const statement of await statementsOf(tables)) await database.sql.unsafe(statement)

  const expected = await readCatalog(database.sql)
  expect(expected.length).toBeGreaterThan(100)
  expect(migrated).toEqual(expected)
})

test('the organization is the first column of every key of what belongs to one', async ({ world }) => {
  const { sql } = await world.replica()
  const keys = await sql<{ name: string; first: string }[]>`
    select c.relname as name, a.attname as first
    from pg_index i join pg_class c on c.oid = i.indexrelid
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where i.indisprimary and c.relnamespace = 'public'::regnamespace`
  const others = keys.filter(({ first }) => first !== 'organization_id').map(({ name }) => name)
  // Not an organization's: organizations and people themselves, how people sign in, the install's own keys and set-up, this
  // cluster's replicas, and a queue read in order of arrival.
  const signIn = Object.values(signInTables).map((table) => `${getTableName(table)}_pkey`)
  expect(others.sort()).toEqual(
    [
      ...['organizations_pkey', 'replicas_pkey', 'thread_response_pkey', 'users_pkey'],
      ...['encryption_canaries_pkey', 'setup_links_pkey', ...signIn],
    ].sort(),
  )
})

/** What would have to be run on an empty database to get the tables that drizzle believes in. */
async function statementsOf(schema: Record<string, unknown>): Promise<string[]> {
  return generateMigration(generateDrizzleJson({}), generateDrizzleJson(schema))
}

/** Every table, a line for each thing it has, as Postgres itself prints it: two ways of writing the same are the same. */
async function readCatalog(sql: Sql): Promise<string[]> {
  const rows = await sql<{ line: string }[]>`
    select concat_ws(' ', c.relname, 'column', a.attname, format_type(a.atttypid, a.atttypmod),
      case when a.attnotnull then 'not null' end, 'default ' || pg_get_expr(d.adbin, d.adrelid),
      'identity ' || nullif(a.attidentity::text, ''), 'generated ' || nullif(a.attgenerated::text, '')) as line
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace and a.attnum > 0 and not a.attisdropped
    union all
    select concat_ws(' ', conrelid::regclass, 'constraint', conname, pg_get_constraintdef(oid))
    from pg_constraint where connamespace = 'public'::regnamespace and conrelid <> 0
    union all
    select concat_ws(' ', tablename, 'index', indexdef) from pg_indexes where schemaname = 'public'`
  return rows.map((row) => row.line).sort()
}
