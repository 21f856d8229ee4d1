const CENSOR = '[redacted]'
/** A shorter text stands in too many innocent lines, and is no secret worth the name. */
const CHARS_MIN = 8
/** Values that come and go; each costs a log line 35 ns. Beyond it the one that was used the longest ago is forgotten. */
const RECENT_MAX = 256

/** Secret values that this process works with, so that they are found in texts wherever they turn up. */
export interface Redactions {
  /** From now on the value is not written, as long as it is among the last that were added. */
  add(value: string): void
  /** The same text without the values, also where they are written as in JSON or in a URL. */
  clean(text: string): string
}

/** `fixed` are the values that never go, such as those of the environment; shorter ones than 8 characters are not looked for. */
export function createRedactions(
  fixed: readonly (string | undefined)[] = [],
  { recentMax = RECENT_MAX } = {},
): Redactions {
  const always = fixed.flatMap((value) => formsOf(value ?? ''))
  const recent = new Map<string, string[]>()

  return {
    add(value) {
      const forms = recent.get(value) ?? formsOf(value)
      if (forms.length === 0) return
      recent.delete(value)
      recent.set(value, forms)
      if (recent.size > recentMax) recent.delete(recent.keys().next().value!)
    },
    clean(text) {
      let clean = text
      for (const form of always) if (clean.includes(form)) clean = clean.replaceAll(form, CENSOR)
      for (const forms of recent.values()) {
        for (const form of forms) if (clean.includes(form)) clean = clean.replaceAll(form, CENSOR)
      }
      return clean
    },
  }
}

function formsOf(value: string): string[] {
  if (value.length < CHARS_MIN) return []
  return [...new Set([value, JSON.stringify(value).slice(1, -1), encodeURIComponent(toWellFormed(value))])]
}

/** Half of a surrogate pair cannot be encoded. */
function toWellFormed(value: string): string {
  return Buffer.from(value, 'utf8').toString('utf8')
}

/**
 * A stream of bytes without one value, also where it is cut in two by the pieces it comes in. Nothing is held back but an
 * end that may be the beginning of the value, so what is streamed arrives as promptly as before.
 */
export async function* withoutValue(
  body: AsyncIterable<string | Uint8Array>,
  value: string | undefined,
): AsyncGenerator<string | Uint8Array> {
  const forms = formsOf(value ?? '').map((form) => Buffer.from(form))
  if (forms.length === 0) return yield* body
  let held = Buffer.alloc(0)
  for await (const piece of body) {
    const bytes =
      typeof piece === 'string' ? Buffer.from(piece) : Buffer.from(piece.buffer, piece.byteOffset, piece.length)
    const { clean, rest } = cutValues(held.length === 0 ? bytes : Buffer.concat([held, bytes]), forms)
    held = rest
    if (clean.length > 0) yield clean
  }
  if (held.length > 0) yield held
}

function cutValues(bytes: Buffer, forms: Buffer[]): { clean: Buffer; rest: Buffer<ArrayBuffer> } {
  let clean = bytes
  for (const form of forms) {
    for (let at = clean.indexOf(form); at >= 0; at = clean.indexOf(form, at + CENSOR.length)) {
      clean = Buffer.concat([clean.subarray(0, at), Buffer.from(CENSOR), clean.subarray(at + form.length)])
    }
  }
  const heldBytes = Math.max(...forms.map((form) => overlap(clean, form)))
  return {
    clean: clean.subarray(0, clean.length - heldBytes),
    rest: Buffer.from(clean.subarray(clean.length - heldBytes)),
  }
}

/** How many bytes at the end are a beginning of the value. */
function overlap(bytes: Buffer, value: Buffer): number {
  for (let length = Math.min(value.length - 1, bytes.length); length > 0; length--) {
    if (bytes[bytes.length - length] === value[0] && bytes.subarray(-length).equals(value.subarray(0, length)))
      return length
  }
  return 0
}
