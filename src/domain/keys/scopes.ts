import { AppError } from '../../lib/errors.ts'
import type { Actor } from '../accounts/actor.ts'
import { ALL_PERMISSIONS, ROLES, type Role } from '../accounts/permissions.ts'

const ALL = '*'

/**
 * What a key is asked to be allowed, a list of words with spaces between them: permissions, or `*` for all that its owner
 * may, now and later.
 * @throws AppError 'invalid_request' for words that mean nothing.
 */
export function parseScopes(text: string): string[] {
  const words = [...new Set(text.split(/\s+/).filter(Boolean))]
  const unknown = words.filter((word) => word !== ALL && !(ALL_PERMISSIONS as string[]).includes(word))
  if (words.length === 0) throw new AppError('invalid_request', 'scope: names no permission; "*" stands for all')
  if (unknown.length > 0) {
    throw new AppError('invalid_request', `scope: unknown permissions ${unknown.join(', ').slice(0, 200)}`)
  }
  return words.includes(ALL) ? [ALL] : words.sort()
}

/**
 * Nobody makes a key that may do more than they may with what they hold right now. `role` is that of the key's owner.
 * @throws AppError 'forbidden', naming what is missing.
 */
export function requireScopes(actor: Actor, { scopes, role }: { scopes: string[]; role: Role }): void {
  const wanted: readonly string[] = scopes.includes(ALL) ? ROLES[role] : scopes
  const missing = wanted.filter((scope) => !(actor.permissions as ReadonlySet<string>).has(scope))
  if (missing.length === 0) return
  throw new AppError('forbidden', `A key cannot be allowed more than you are: ${missing.join(', ')}`, {
    details: { missing },
  })
}
