import { AppError } from '../../lib/errors.ts'
import { ALL_PERMISSIONS, PERMISSIONS, type Permission, ROLES, type Role } from './permissions.ts'

/** Who makes a request. Everything it asks for is looked up under its organization (I9). */
export interface Actor {
  /** An API key, a conversation's session token, a person's browser session, or a program that a person let in by OAuth. */
  kind: 'key' | 'session' | 'user' | 'client'
  /** Id of the credential, for the audit log: the key, the browser session, the OAuth client; the conversation of a session token. */
  credentialId: string
  organizationId: string
  organizationSlug: string
  /** Owner of the key, the person, or the caller's own name for its user. */
  userId: string
  /** The role of the person behind the credential. A session token has none. */
  role: Role | null
  permissions: ReadonlySet<Permission>
  /** A session token speaks for one conversation only. */
  conversationId?: string
  /** The API key that a session token was made with. */
  keyId?: string
  /** The person that a session token was made for. */
  memberId?: string
  /** The browser session that a session token was made in, or the program that made it. */
  madeIn?: { sessionId?: string | undefined; clientId?: string | undefined }
  /** Where the request came from. */
  origin?: Origin
}

export interface Origin {
  ip: string | null
  userAgent: string | null
  requestId: string
}

/** Who asks for something that belongs to no organization yet, or to several of theirs. */
export type Requester = Pick<Actor, 'kind' | 'credentialId' | 'userId' | 'origin'>

/**
 * The person behind a credential that may act as them in everything: a browser session, or a key of theirs that is not
 * narrowed by scopes.
 * @throws AppError 'forbidden'
 */
export function requirePerson(actor: Actor): Requester {
  const { kind, credentialId, userId, origin, role, permissions } = actor
  const isPerson = kind === 'user' || (kind === 'key' && userId !== credentialId)
  if (!isPerson || role === null) {
    throw new AppError('forbidden', 'Only a person can do this, signed in or with an API key of their own')
  }
  if (permissions.size < ROLES[role].length) {
    throw new AppError('forbidden', 'This credential is limited to some permissions; use one that is not')
  }
  return { kind, credentialId, userId, ...(origin ? { origin } : {}) }
}

/** For tests and for the gateway's own acts: an actor that may do everything in an organization. */
export function actorWithAll(place: { organizationId: string; organizationSlug: string; userId: string }): Actor {
  return { kind: 'key', credentialId: 'system', role: 'owner', permissions: new Set(ALL_PERMISSIONS), ...place }
}

/**
 * A session token may only touch its own conversation; for any other id the answer is the same as for an unknown one.
 * @throws AppError 'not_found', or 'forbidden' for a credential that may not use conversations at all.
 */
export function requireConversation(actor: Actor, conversationId: string): void {
  if (actor.kind === 'session' && actor.conversationId !== conversationId) {
    throw new AppError('not_found', 'No such conversation')
  }
  requirePermission(actor, 'conversations:use')
}

/**
 * The first line of every verb that manages something.
 * @throws AppError 'forbidden', naming what is missing.
 */
export function requirePermission(actor: Actor, permission: Permission): void {
  if (actor.kind === 'session' && permission !== 'conversations:use') {
    throw new AppError('forbidden', 'A session token cannot do this; use an API key')
  }
  if (actor.permissions.has(permission)) return
  throw new AppError(
    'forbidden',
    `This takes the permission "${permission}": ${PERMISSIONS[permission].toLowerCase()}`,
    {
      details: { permission },
    },
  )
}
