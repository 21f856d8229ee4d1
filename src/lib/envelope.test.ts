import { describe, expect, test } from 'vitest'
import { createEnvelope, EnvelopeError, type Place } from './envelope.ts'

const material = (text: string, purpose = 'test') => ({ text, purpose })
const FIRST = material('the first key, which is long enough for this')
const SECOND = material('the second key, which is long enough as well')
const PLACE: Place = ['org_1', 'secrets', 'agent', 'NAME', 'sealed']

const first = createEnvelope({ current: FIRST, older: [] })
const second = createEnvelope({ current: SECOND, older: [FIRST] })

function reasonOf(open: () => string): string {
  try {
    return `opened: ${open()}`
  } catch (error) {
    return error instanceof EnvelopeError ? error.reason : String(error)
  }
}

describe('a sealed text', () => {
  test.each(['', 'x', 'ünï cödé 🔑 "quoted"\n\0', 'long '.repeat(20_000)])('opens in its place again', (text) => {
    expect(first.open(first.seal(text, PLACE), PLACE)).toBe(text)
  })

  test('names its key, is never twice the same, and shows nothing of what is in it', () => {
    const [one, two] = [first.seal('plain', PLACE), first.seal('plain', PLACE)]
    expect(one).toMatch(new RegExp(`^v1\\.${first.keyId}\\.[A-Za-z0-9_-]+$`))
    expect(one).not.toBe(two)
    expect(Buffer.from(one.split('.')[2]!, 'base64url').toString('latin1')).not.toContain('plain')
  })

  test.each<[string, Place]>([
    ['another organization', ['org_2', 'secrets', 'agent', 'NAME', 'sealed']],
    ['another row', ['org_1', 'secrets', 'agent', 'OTHER', 'sealed']],
    ['another column', ['org_1', 'secrets', 'agent', 'NAME', 'token']],
    ['names that only look the same when joined', ['org_1', 'secrets', 'agent,NAME', 'sealed']],
    ['no place', []],
  ])('does not open in %s', (_, place) => {
    expect(reasonOf(() => first.open(first.seal('plain', PLACE), place))).toBe('damaged')
  })

  test('does not open when any byte of it was changed', () => {
    const sealed = first.seal('plain', PLACE)
    const [version, id, encoded] = sealed.split('.') as [string, string, string]
    const bytes = Buffer.from(encoded, 'base64url')
    for (let at = 0; at < bytes.length; at++) {
      const changed = Buffer.from(bytes)
      changed[at]! ^= 1
      expect(reasonOf(() => first.open(`${version}.${id}.${changed.toString('base64url')}`, PLACE))).toBe('damaged')
    }
    for (const cut of ['', 'AA', encoded.slice(0, 30), encoded.slice(0, -2)]) {
      expect(reasonOf(() => first.open(`${version}.${id}.${cut}`, PLACE))).toBe('damaged')
    }
  })

  test.each(['', 'plain', 'v1..', 'v2.0123456789ab.AAAA', 'v1.0123456789AB.AAAA'])('%j is none', (text) => {
    expect(reasonOf(() => first.open(text, PLACE))).toBe('damaged')
  })
})

describe('keys', () => {
  test('the same material is the same key on every replica', () => {
    const other = createEnvelope({ current: { ...FIRST }, older: [] })
    expect(other.keyId).toBe(first.keyId)
    expect(other.open(first.seal('plain', PLACE), PLACE)).toBe('plain')
  })

  test('an older key opens and never seals', () => {
    expect(second.open(first.seal('plain', PLACE), PLACE)).toBe('plain')
    expect(second.seal('plain', PLACE)).toContain(second.keyId)
    expect(second.keyIds).toEqual([first.keyId, second.keyId])
  })

  test('a text of a key that is not at hand says whose it is', () => {
    const sealed = second.seal('plain', PLACE)
    expect(reasonOf(() => first.open(sealed, PLACE))).toBe('unknown_key')
    expect(() => first.open(sealed, PLACE)).toThrow(second.keyId)
  })

  test('the same text is another key for another purpose', () => {
    const other = createEnvelope({ current: material(FIRST.text, 'other'), older: [] })
    expect(other.keyId).not.toBe(first.keyId)
    expect(reasonOf(() => other.open(first.seal('plain', PLACE), PLACE))).toBe('unknown_key')
  })

  test('the current key may be among the older ones', () => {
    const twice = createEnvelope({ current: FIRST, older: [FIRST, SECOND, SECOND] })
    expect(twice.keyId).toBe(first.keyId)
    expect([...twice.keyIds].sort()).toEqual([first.keyId, second.keyId].sort())
  })
})
