import { createEnvelope, type Envelope } from '../../lib/envelope.ts'

export interface EncryptionSettings {
  jwt: string
  betterAuth: string
  /** `ENCRYPTION_KEY` */
  encryption: string | undefined
  /** `ENCRYPTION_KEYS_OLD` */
  encryptionOld: string[]
}

const GIVEN = 'lobu secrets v1 given'
const DERIVED = 'lobu secrets v1 derived'

/**
 * The keys of stored secrets: the given one, else one derived from the two secrets that every installation has, so that
 * those alone are enough and all replicas have the same. With a given key the derived one still opens: an installation
 * may begin without `ENCRYPTION_KEY` and set it later.
 */
export function createSecretsEnvelope({ jwt, betterAuth, encryption, encryptionOld }: EncryptionSettings): Envelope {
  const derived = { text: JSON.stringify([jwt, betterAuth]), purpose: DERIVED }
  const older = encryptionOld.map((text) => ({ text, purpose: GIVEN }))
  if (encryption === undefined) return createEnvelope({ current: derived, older })
  return createEnvelope({ current: { text: encryption, purpose: GIVEN }, older: [derived, ...older] })
}
