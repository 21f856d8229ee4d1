import { z } from '@hono/zod-openapi'

/** A place in a list as the list itself names it; each verb says what of it means nothing. */
const Place = z.string().min(1).max(300).optional()

const limit = (fallback: number, max: number) => z.coerce.number().int().min(1).max(max).default(fallback)

interface Bounds {
  /** Entries on a page, where nobody says how many. */
  fallback?: number
  max?: number
}

/** The query of a list that is read on with the `nextCursor` that its last page gave. */
export function byCursor({ fallback = 100, max = 500 }: Bounds = {}) {
  return z.object({ limit: limit(fallback, max), cursor: Place })
}

/** The query of a list that is read on behind the last entry that was seen. */
export function afterLast({ fallback = 100, max = 500 }: Bounds = {}) {
  return z.object({ limit: limit(fallback, max), after: Place })
}
