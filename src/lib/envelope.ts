import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto'

/** What 12 bytes of nonce, the mode's own size, are for: https://nvlpubs.nist.gov/nistpubs/Legacy/SP/nistspecialpublication800-38d.pdf */
const IV_BYTES = 12
const TAG_BYTES = 16
const KEY_BYTES = 32
const ALGORITHM = 'aes-256-gcm'
const FORMAT = /^v1\.([0-9a-f]{12})\.([A-Za-z0-9_-]+)$/

/** Names of the place that a text belongs to. It can be opened there and nowhere else. */
export type Place = readonly string[]

/** Seals texts with one key and opens what that key or an older one has sealed. */
export interface Envelope {
  /** Id of the key that seals. Derived from the key, so the same wherever the key is. */
  readonly keyId: string
  /** Ids of the keys that open, `keyId` among them. */
  readonly keyIds: readonly string[]
  /** `v1.<key id>.<base64url of nonce, tag and ciphertext>`, different each time. */
  seal(text: string, place: Place): string
  /** @throws EnvelopeError, which holds nothing of the text. */
  open(sealed: string, place: Place): string
}

/** `unknown_key`: another key has sealed it. `damaged`: it was changed, moved from another place, or never sealed. */
export class EnvelopeError extends Error {
  readonly reason: 'unknown_key' | 'damaged'

  constructor(reason: EnvelopeError['reason'], message: string) {
    super(message)
    this.name = 'EnvelopeError'
    this.reason = reason
  }
}

/** A key as people have it, of any form and length, for one purpose: the same text gives another key for another one. */
export interface KeyMaterial {
  text: string
  purpose: string
}

/**
 * AES-256-GCM with the place as authenticated data. Keys come from their material by HKDF-SHA-256; the material must be
 * random, since HKDF does not slow down guessing. Nonces are random: good for 2^32 texts a key.
 */
export function createEnvelope({ current, older }: { current: KeyMaterial; older: KeyMaterial[] }): Envelope {
  const own = deriveKey(current)
  const keys = new Map([...older.map(deriveKey), own].map((key) => [key.id, key.bytes]))

  return {
    keyId: own.id,
    keyIds: [...keys.keys()],
    seal(text, place) {
      const iv = randomBytes(IV_BYTES)
      const cipher = createCipheriv(ALGORITHM, own.bytes, iv, { authTagLength: TAG_BYTES })
      cipher.setAAD(encodePlace(place))
      const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
      return `v1.${own.id}.${Buffer.concat([iv, cipher.getAuthTag(), body]).toString('base64url')}`
    },
    open(sealed, place) {
      const [, id = '', encoded = ''] = FORMAT.exec(sealed) ?? []
      if (id === '') throw new EnvelopeError('damaged', 'This is not a sealed text')
      const key = keys.get(id)
      if (!key) throw new EnvelopeError('unknown_key', `This is sealed by the key ${id}, which is not at hand`)
      return decrypt(key, Buffer.from(encoded, 'base64url'), place)
    },
  }
}

function decrypt(key: Buffer, bytes: Buffer, place: Place): string {
  try {
    const decipher = createDecipheriv(ALGORITHM, key, bytes.subarray(0, IV_BYTES), { authTagLength: TAG_BYTES })
    decipher.setAAD(encodePlace(place))
    decipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
    const text = Buffer.concat([decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES)), decipher.final()])
    return text.toString('utf8')
  } catch {
    throw new EnvelopeError('damaged', 'A sealed text was changed, or belongs to another place')
  }
}

function deriveKey({ text, purpose }: KeyMaterial): { id: string; bytes: Buffer } {
  const derive = (use: string, bytes: number) => Buffer.from(hkdfSync('sha256', text, '', `${purpose}:${use}`, bytes))
  return { id: derive('id', 6).toString('hex'), bytes: derive('key', KEY_BYTES) }
}

/** Unlike a joined text, JSON leaves no doubt where one name ends and the next begins. */
function encodePlace(place: Place): Buffer {
  return Buffer.from(JSON.stringify(place), 'utf8')
}
