/** What the tests of this folder share: envelopes of a few keys, and an organization with secrets. */
import { createSecretsEnvelope } from './keys.ts'

const SECRETS = { jwt: 'jwt secret of the tests, long enough', betterAuth: 'better-auth secret of the tests' }

/** As a process with this `ENCRYPTION_KEY` has it; without one, with the key that is derived. */
export function envelopeOf(encryption?: string, ...encryptionOld: string[]) {
  return createSecretsEnvelope({ ...SECRETS, encryption, encryptionOld })
}
