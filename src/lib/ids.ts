import { createHash, randomBytes, randomUUID, timingSafeEqual } from 'node:crypto'

/** An opaque, unguessable id with a short prefix that tells a reader of logs what it names: `conv_…` (128 random bits). */
export function newId(prefix: 'conv' | 'agent' | 'org' | 'user' | 'key' | 'inv' | 'file' | 'replica' | 'req'): string {
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

/**
 * A UUID of version 7: ids made later sort behind, by this machine's clock, and those of one process never fall back.
 * https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7
 */
export const newTimeId = createTimeIds()

/** Twelve bits of each id count within a millisecond; when they run out the ids borrow from the next one. */
function createTimeIds(): () => string {
  let last = { ms: 0, count: 0 }
  return () => {
    const ms = Date.now()
    if (ms > last.ms) last = { ms, count: 0 }
    else last = last.count < 0xfff ? { ms: last.ms, count: last.count + 1 } : { ms: last.ms + 1, count: 0 }
    const time = last.ms.toString(16).padStart(12, '0')
    const count = last.count.toString(16).padStart(3, '0')
    const random = randomBytes(8)
    random[0] = (random[0]! & 0x3f) | 0x80
    const tail = random.toString('hex')
    return `${time.slice(0, 8)}-${time.slice(8)}-7${count}-${tail.slice(0, 4)}-${tail.slice(4)}`
  }
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
