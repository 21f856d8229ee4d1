import { expect } from 'vitest'
import { test } from '../../tests/support/world.ts'

test('values arrive as they are, though nobody asked the server for their types', async ({ world }) => {
  const { sql } = await world.replica()
  const sent = {
    integers: [1, 2],
    nested: [
      [1, 2],
      [3, 4],
    ],
    texts: ['a', null, 'b"\\c', 'NULL', ''],
    none: [],
    object: { a: [1, null] },
    list: [1, { b: 2 }],
    time: new Date(1_000),
    bytes: Buffer.from([0, 255]),
    yes: true,
    big: 2 ** 53 - 1,
  }
  const [row] = await sql`
    select ${sent.integers}::int[] as integers, ${sent.nested}::int[] as nested, ${sent.texts as never}::text[] as texts,
      ${sent.none}::text[] as none, ${sent.object as never}::jsonb as object, ${sql.json(sent.list)}::jsonb as list,
      ${sent.time}::timestamptz as time, ${sent.bytes}::bytea as bytes, ${sent.yes} as yes, ${sent.big}::bigint as big`
  expect(row).toEqual(sent)
  expect(await sql.unsafe('select $1::text[] as a, $2::jsonb as b', [['q'] as never, '{"x":1}'])).toEqual([
    { a: ['q'], b: { x: 1 } },
  ])
})

test('a value that cannot be sent fails its own query, and no other', async ({ world }) => {
  const { sql } = await world.replica({ poolMax: 1 })
  const holed = () => sql`select ${['a', undefined] as never}::text[]`.then(() => 'sent')
  for (let round = 0; round < 3; round++) {
    await expect(holed()).rejects.toThrow('undefined is not allowed')
    expect(await sql`select ${round}::int as n`).toEqual([{ n: round }])
  }
  await expect(sql.begin((tx) => tx`select ${['a', undefined] as never}::text[]`)).rejects.toThrow('undefined')
  expect(await sql.begin((tx) => tx`select ${7}::int as n`)).toEqual([{ n: 7 }])
})
