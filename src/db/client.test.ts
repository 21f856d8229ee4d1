import { expect } from 'vitest'
import { test } from '../../tests/support/world.ts'

test('smoke', async ({ world }) => {
  const db = await world.replica()
  expect(await db.sql`select count(*) as n from agents`).toEqual([{ n: 0 }])
})
