import { AppError } from '../../lib/errors.ts'

/** Who makes a request. Everything it asks for is looked up under its organization (I9). */
export interface Actor {
  kind: 'key' | 'session'
  organizationId: string
  organizationSlug: string
  /** Owner of the key, or the caller's own name for its user. */
  userId: string
  /** A session token speaks for one conversation only. */
  conversationId?: string
}

/**
 * A session token may only touch its own conversation; for any other id the answer is the same as for an unknown one.
 * @throws AppError 'not_found'
 */
export function requireConversation(actor: Actor, conversationId: string): void {
  if (actor.kind === 'session' && actor.conversationId !== conversationId) {
    throw new AppError('not_found', 'No such conversation')
  }
}

/** @throws AppError 'forbidden' for a session token: managing things takes an API key. */
export function requireKey(actor: Actor): void {
  if (actor.kind !== 'key') throw new AppError('forbidden', 'A session token cannot do this; use an API key')
}
