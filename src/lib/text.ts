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
