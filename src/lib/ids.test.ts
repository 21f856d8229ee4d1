import { expect, test } from 'vitest'
import { isUuid, newId, newMessageId, newRunId, newTimeId, secretsEqual, sha256 } from './ids.ts'

test('ids are never given twice, fit into a URL and say what they name', () => {
  const ids = new Set(Array.from({ length: 10_000 }, () => newId('conv')))
  expect(ids.size).toBe(10_000)
  for (const id of ids) expect(id).toMatch(/^conv_[A-Za-z0-9_-]{22}$/)
  expect(newRunId()).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
  expect(newMessageId()).not.toBe(newMessageId())
})

test('ids of time are UUIDs of version 7 whose order is that of their making', () => {
  const before = Date.now()
  const ids = Array.from({ length: 20_000 }, () => newTimeId())
  expect(ids.toSorted()).toEqual(ids)
  expect(new Set(ids).size).toBe(ids.length)
  expect(ids.every((id) => isUuid(id) && /^.{14}7.{4}[89ab]/.test(id))).toBe(true)
  expect(Number.parseInt(ids[0]!.replace('-', '').slice(0, 12), 16)).toBeGreaterThanOrEqual(before)
})

test('a hash is the SHA-256 of the text or of the same bytes', () => {
  expect(sha256('')).toBe('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
  expect(sha256('é')).toBe(sha256(new TextEncoder().encode('é')))
})

test('secrets are compared whole, whatever their length', () => {
  expect(secretsEqual('abc', 'abc')).toBe(true)
  expect(secretsEqual('abc', 'abd')).toBe(false)
  expect(secretsEqual('abc', 'abcd')).toBe(false)
  expect(secretsEqual('', 'a')).toBe(false)
  expect(secretsEqual('', '')).toBe(true)
})
