/**
 * Replaces what Postgres cannot store in text and jsonb (the NUL character) and what is not Unicode (lone surrogates),
 * in a string or in every string of a JSON value.
 */
export function storable<T>(value: T): T {
  if (typeof value === 'string') return cleanString(value) as T
  if (Array.isArray(value)) return value.map(storable) as T
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [cleanString(key), storable(inner)])) as T
}

function cleanString(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\uFFFD')
}

/** The object that a JSON text holds; undefined for anything else. */
export function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

/** Cuts a text into pieces of at most `charsMax`, none of which begins or ends within a character of two halves. */
export function* cutText(text: string, charsMax: number): Generator<string> {
  for (let start = 0; start < text.length; ) {
    let end = Math.min(text.length, start + charsMax)
    if (end < text.length && isHighSurrogate(text.charCodeAt(end - 1)) && end - start > 1) end--
    yield text.slice(start, end)
    start = end
  }
}

const isHighSurrogate = (code: number) => code >= 0xd800 && code <= 0xdbff
