import { createHash, randomBytes, randomUUID, timingSafeEqual } from 'node:crypto'

/** An opaque, unguessable id with a short prefix that tells a reader of logs what it names: `conv_…` (128 random bits). */
export function newId(prefix: 'conv' | 'agent' | 'org' | 'user' | 'key' | 'file' | 'replica' | 'req'): string {
  return `${prefix}_${randomBytes(16).toString('base64url')}`
}

/** A run's id: a UUID, because published clients treat it as one. */
export function newRunId(): string {
  return randomUUID()
}

/** Whether a text is a UUID in its usual form, and so can be compared with a column of that type. */
export function isUuid(text: string): boolean {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)
}

/** A message's id where the client gave none. */
export function newMessageId(): string {
  return randomUUID()
}

/** SHA-256 as lower-case hex. */
export function sha256(text: string | Uint8Array): string {
  return createHash('sha256').update(text).digest('hex')
}

/** Compares two secrets without telling by the time how much of them agrees. */
export function secretsEqual(a: string, b: string): boolean {
  return timingSafeEqual(createHash('sha256').update(a).digest(), createHash('sha256').update(b).digest())
}
