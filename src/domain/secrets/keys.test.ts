import { expect, test } from 'vitest'
import { createSecretsEnvelope } from './keys.ts'
import { envelopeOf } from './test-keys.ts'

const PLACE = ['place']

test('the two documented secrets are enough, and every replica derives the same key from them', () => {
  const sealed = envelopeOf().seal('plain', PLACE)
  expect(envelopeOf().open(sealed, PLACE)).toBe('plain')
  for (const other of [
    { jwt: 'x', betterAuth: 'yz' },
    { jwt: 'xy', betterAuth: 'z' },
    { jwt: 'yz', betterAuth: 'x' },
  ]) {
    const { keyId } = createSecretsEnvelope({ ...other, encryption: undefined, encryptionOld: [] })
    expect(keyId).not.toBe(
      createSecretsEnvelope({ jwt: 'z', betterAuth: 'xy', encryption: undefined, encryptionOld: [] }).keyId,
    )
    expect(keyId).not.toBe(envelopeOf().keyId)
  }
})

test('a given key wins, and still opens what the derived one has sealed', () => {
  const given = envelopeOf('a given key')
  expect(given.keyId).not.toBe(envelopeOf().keyId)
  expect(given.open(envelopeOf().seal('plain', PLACE), PLACE)).toBe('plain')
})

test('an earlier key opens', () => {
  const sealed = envelopeOf('the first').seal('plain', PLACE)
  expect(envelopeOf('the second', 'another', 'the first').open(sealed, PLACE)).toBe('plain')
  expect(() => envelopeOf('the second', 'another').open(sealed, PLACE)).toThrow('is not at hand')
})
