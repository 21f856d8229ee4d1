import { hkdfSync } from 'node:crypto'
import { jwtVerify, SignJWT } from 'jose'
import type { Actor } from './actor.ts'
import type { Permission } from './permissions.ts'

/** How long a session token is good for: 24 hours. */
export const SESSION_MS = 24 * 3600 * 1000
const ISSUER = 'lobu'
const AUDIENCE = 'session'
const SESSION_PERMISSIONS: ReadonlySet<Permission> = new Set(['conversations:use'])

export interface SessionClaims {
  organizationId: string
  organizationSlug: string
  agentId: string
  userId: string
  conversationId: string
  /** The API key that it is made with: it stops working when the key does. */
  keyId?: string | undefined
  /** The person it is made for, by a browser session or a program: it stops working when they are no member any more. */
  memberId?: string | undefined
  /** The browser session that it is made in: it stops working when the person signs out. */
  sessionId?: string | undefined
  /** The program that makes it: it stops working when nothing is left of what the person gave the program. */
  clientId?: string | undefined
}

export interface SessionTokens {
  /** `expiresAt` is in epoch milliseconds; a day from now, or what `msMax` allows. */
  sign(claims: SessionClaims, options?: { msMax?: number }): Promise<{ token: string; expiresAt: number }>
  /** Who speaks with the token; null when it is not ours, not for this audience, or expired. */
  verify(token: string): Promise<Actor | null>
}

/**
 * Session tokens: JWTs (HS256) with the audience `session`. The key is derived from `JWT_SECRET`, so every replica has
 * the same one and no other use of the secret shares it.
 */
export function createSessionTokens(jwtSecret: string): SessionTokens {
  const key = new Uint8Array(hkdfSync('sha256', jwtSecret, '', 'lobu session token v1', 32))
  return {
    async sign(claims, { msMax = SESSION_MS } = {}) {
      const expiresAt = Math.floor((Date.now() + Math.min(SESSION_MS, msMax)) / 1000) * 1000
      const token = await new SignJWT({
        org: claims.organizationId,
        slug: claims.organizationSlug,
        agent: claims.agentId,
        conv: claims.conversationId,
        ...(claims.keyId === undefined ? {} : { key: claims.keyId }),
        ...(claims.memberId === undefined ? {} : { member: claims.memberId }),
        ...(claims.sessionId === undefined ? {} : { sid: claims.sessionId }),
        ...(claims.clientId === undefined ? {} : { app: claims.clientId }),
      })
        .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
        .setSubject(claims.userId)
        .setIssuer(ISSUER)
        .setAudience(AUDIENCE)
        .setIssuedAt()
        .setExpirationTime(expiresAt / 1000)
        .sign(key)
      return { token, expiresAt }
    },
    async verify(token) {
      const options = { issuer: ISSUER, audience: AUDIENCE, algorithms: ['HS256'], typ: 'JWT' }
      const verified = await jwtVerify(token, key, options).catch(() => null)
      if (!verified) return null
      const { org, slug, agent, conv, sub, key: keyId, member: memberId, sid, app } = verified.payload
      if (typeof org !== 'string' || typeof slug !== 'string' || typeof agent !== 'string') return null
      if (typeof conv !== 'string' || typeof sub !== 'string') return null
      return {
        kind: 'session',
        credentialId: conv,
        ...{ organizationId: org, organizationSlug: slug, userId: sub, conversationId: conv },
        role: null,
        permissions: SESSION_PERMISSIONS,
        ...(typeof keyId === 'string' ? { keyId } : {}),
        ...(typeof memberId === 'string' ? { memberId } : {}),
        madeIn: {
          ...(typeof sid === 'string' ? { sessionId: sid } : {}),
          ...(typeof app === 'string' ? { clientId: app } : {}),
        },
      }
    },
  }
}
