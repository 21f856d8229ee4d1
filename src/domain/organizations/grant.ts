import { AppError } from '../../lib/errors.ts'
import type { Actor } from '../accounts/actor.ts'
import { includesRole, ROLES, type Role, rankOf } from '../accounts/permissions.ts'

/**
 * Nobody hands out more than they have: a role can be given by a credential that has every permission of it.
 * @throws AppError 'forbidden'
 */
export function requireGrantable(actor: Actor, role: Role): void {
  const missing = ROLES[role].filter((permission) => !actor.permissions.has(permission))
  if (missing.length === 0) return
  throw new AppError('forbidden', `You cannot make anybody ${role}: that is more than this credential may do itself`, {
    details: { missing },
  })
}

/**
 * Nobody changes or removes a member who stands above them, nor one who may more than this credential: a key of an owner
 * that is limited to some permissions touches no owner and no admin.
 * @throws AppError 'forbidden'
 */
export function requireRank(actor: Actor, role: Role): void {
  const rank = rankOf(actor)
  if (rank !== null && includesRole(rank, role)) return
  throw new AppError('forbidden', `Only an ${role} can do this to an ${role}`)
}
