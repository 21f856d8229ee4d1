import { expect } from 'vitest'
import { test } from '../../tests/support/world.ts'
import type { LogRow } from './event-log.ts'
import { decodeHints, encodeHints } from './hints.ts'

/** NOTIFY refuses what has 8,000 bytes; some room is left. */
const PAYLOAD_BYTES_MAX = 7_802

const rowOf = (conversationId: string, firstSeq: number, events: string): LogRow => ({
  organizationId: 'org_1',
  conversationId,
  firstSeq,
  lastSeq: firstSeq + events.split('\n').length - 1,
  events,
})

test('rows come back as they were, in order, in as few payloads as possible', () => {
  const rows = Array.from({ length: 200 }, (_, i) => rowOf(`conv_${i}`, i + 1, `output {"n":${i}}\nstatus {"é":"😀"}`))
  const payloads = encodeHints(rows)
  expect(payloads.flatMap((payload) => decodeHints(payload).rows)).toEqual(rows)
  const bytes = payloads.map((payload) => Buffer.byteLength(payload))
  expect(Math.max(...bytes)).toBeLessThanOrEqual(PAYLOAD_BYTES_MAX)
  for (const size of bytes.slice(0, -1)) expect(size).toBeGreaterThan(PAYLOAD_BYTES_MAX - 200)
})

test.each(['x', '"', '\\', '\n', 'é', '😀', '\u0001', '漢'])(
  'text of %j never makes a payload too large',
  (character) => {
    for (let length = 1_200; length < 9_000; length += 97) {
      const row = rowOf('conv_1', 1, `output ${JSON.stringify({ content: character.repeat(length) })}`)
      const small = rowOf('conv_2', 1, 'output {}')
      const payloads = encodeHints([small, row, small])
      for (const payload of payloads) expect(Buffer.byteLength(payload)).toBeLessThanOrEqual(PAYLOAD_BYTES_MAX)
      const { rows, bare } = payloads.map(decodeHints).reduce((a, b) => ({
        rows: [...a.rows, ...b.rows],
        bare: [...a.bare, ...b.bare],
      }))
      expect(rows.length + bare.length).toBe(3)
      for (const read of rows) expect([row, small]).toContainEqual(read)
    }
  },
)

test('a row that does not fit travels without its events', () => {
  const row = rowOf('conv_1', 5, `output ${'x'.repeat(20_000_000)}`)
  expect(encodeHints([row]).map(decodeHints)).toEqual([
    { rows: [], bare: [{ organizationId: 'org_1', conversationId: 'conv_1' }] },
  ])
})

test('nothing to tell makes no payload', () => {
  expect(encodeHints([])).toEqual([])
})

test('the largest payloads pass through NOTIFY', async ({ world }) => {
  const { sql } = await world.replica()
  for (let length = 7_500; length < 7_800; length += 7) {
    for (const payload of encodeHints([rowOf('conv_1', 1, `output ${'x'.repeat(length)}`)])) {
      await sql`select pg_notify('lobu_hint_test', ${payload})`
    }
  }
})

test('what is not ours is ignored: other text, other shapes, other types', () => {
  const nothing = { rows: [], bare: [] }
  for (const payload of [
    '',
    'ping',
    'null',
    '{}',
    '7',
    '"x"',
    '[',
    '[[',
    '[1]',
    '[null]',
    '[[]]',
    '[["org_1"]]',
    '[{}]',
  ]) {
    expect(decodeHints(payload), payload).toEqual(nothing)
  }
  for (const item of [
    ['o', 'c', '1', '2', 'output {}'],
    ['o', 'c', 1, '2', 'output {}'],
    ['o', 'c', null, null, 'output {}'],
    ['o', 'c', 1.5, 2.5, 'output {}'],
    ['o', 'c', -1, 1, 'output {}'],
    ['o', 'c', 0, 0, 'output {}'],
    ['o', 'c', 3, 2, 'output {}'],
    ['o', 'c', 1e30, 1e30, 'output {}'],
    [1, 'c', 1, 1, 'output {}'],
    ['o', null, 1, 1, 'output {}'],
  ]) {
    expect(decodeHints(JSON.stringify([item])).rows, JSON.stringify(item)).toEqual([])
  }
})

test('an item that is not ours does not spoil its neighbours', () => {
  const row = rowOf('conv_1', 1, 'output {}')
  const [payload] = encodeHints([row])
  const mixed = JSON.stringify([['v2', {}], ...JSON.parse(payload!), null])
  expect(decodeHints(mixed).rows).toEqual([row])
})
