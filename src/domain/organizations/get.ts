import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import type { Actor } from '../accounts/actor.ts'

export interface Organization {
  id: string
  slug: string
  name: string
  createdAt: Date
}

/**
 * The caller's organization. Everybody in it may see its name, but a session token speaks for a conversation only.
 * @throws AppError 'forbidden', 'not_found'
 */
export async function getOrganization(sql: Sql, { actor }: { actor: Actor }): Promise<Organization> {
  requireInside(actor)
  const [row] = await sql<Organization[]>`
    select id, slug, name, created_at as "createdAt" from organizations where id = ${actor.organizationId}`
  if (!row) throw new AppError('not_found', 'No such organization')
  return row
}

/** @throws AppError 'forbidden' for a session token. */
export function requireInside(actor: Actor): void {
  if (actor.kind !== 'session') return
  throw new AppError('forbidden', 'A session token cannot do this; use an API key')
}
