import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import { createRecall } from '../../lib/recall.ts'
import { ACCESS_CACHE_MS } from './access.ts'
import type { Actor } from './actor.ts'
import { permissionsWithin, type Role } from './permissions.ts'

/** A person who is signed in with a browser, and the organizations they belong to, the oldest membership first. */
export interface Person {
  userId: string
  sessionId: string
  expiresAt: Date
  memberships: { organizationId: string; organizationSlug: string; role: Role }[]
}

/** Reads the cookie that better-auth signs: `<token>.<base64 of HMAC-SHA-256>`, percent-encoded. */
export interface SessionCookies {
  readonly name: string
  /** The session's token; null without the cookie, or when its signature is not ours. */
  read(cookieHeader: string | undefined): string | null
}

/**
 * Cookies of an https origin carry the prefix that browsers accept over TLS alone, and only that one counts there: a
 * neighbour on plain http could set the other. https://developer.mozilla.org/docs/Web/HTTP/Headers/Set-Cookie#cookie_prefixes
 */
export function createSessionCookies(options: { secret: string; publicUrl: string; prefix: string }): SessionCookies {
  const secure = options.publicUrl.startsWith('https:') ? '__Secure-' : ''
  const name = `${secure}${options.prefix}.session_token`
  return {
    name,
    read(header) {
      const value = header === undefined ? undefined : findCookie(header, name)
      const at = value?.lastIndexOf('.') ?? -1
      if (value === undefined || at < 1) return null
      const token = value.slice(0, at)
      const expected = createHmac('sha256', options.secret).update(token).digest()
      const given = Buffer.from(value.slice(at + 1), 'base64')
      return given.length === expected.length && timingSafeEqual(given, expected) ? token : null
    },
  }
}

/** The value of the first cookie of that name, decoded; undefined when it is not there or not decodable. */
export function findCookie(header: string, name: string): string | undefined {
  for (const pair of header.split(';')) {
    const at = pair.indexOf('=')
    if (at === -1 || pair.slice(0, at).trim() !== name) continue
    try {
      return decodeURIComponent(pair.slice(at + 1).trim())
    } catch {
      return undefined
    }
  }
  return undefined
}

const CACHE_MAX = 5_000

export interface PersonLookup {
  /** Who is signed in with the browser that sends this header, a member of an organization or not; null for nobody. */
  identify(cookieHeader: string | undefined): Promise<Person | null>
  /** Sessions or members have changed. */
  forget(): void
}

/** Looks people up by their cookie, once for all that a page asks in a moment. */
export function createPersonLookup({ sql, cookies }: { sql: Sql; cookies: SessionCookies }): PersonLookup {
  // Keyed by hash: a memory dump of the cache must not hold sessions that work.
  const known = createRecall<Person>({ max: CACHE_MAX, ttlMs: ACCESS_CACHE_MS })
  return {
    async identify(cookieHeader) {
      const token = cookies.read(cookieHeader)
      if (token === null) return null
      const person = await known.get(sha256(token), () => findPerson(sql, token))
      return person && person.expiresAt.getTime() > Date.now() ? person : null
    },
    forget: known.forget,
  }
}

/** Who has this session; null when it was ended or has expired. One join over `user_sessions_token_key`. */
export async function findPerson(sql: Sql, token: string): Promise<Person | null> {
  const rows = await sql<
    { id: string; userId: string; expiresAt: Date; organizationId: string | null; slug: string; role: Role }[]
  >`
    select s.id, s.user_id as "userId", s.expires_at as "expiresAt", m.organization_id as "organizationId", o.slug, m.role
    from user_sessions s
    left join members m on m.user_id = s.user_id
    left join organizations o on o.id = m.organization_id
    where s.token = ${token} and s.expires_at > now()
    order by m.created_at, o.slug`
  const [first] = rows
  if (!first) return null
  const memberships = rows.flatMap(({ organizationId, slug, role }) =>
    organizationId === null ? [] : [{ organizationId, organizationSlug: slug, role }],
  )
  return { userId: first.userId, sessionId: first.id, expiresAt: first.expiresAt, memberships }
}

/**
 * A person acts in the organization that the request names, else in the one they joined first. Undefined when they are no
 * member of the one named.
 * @throws AppError 'no_organization' for a person who is a member of none.
 */
export function actorOfPerson(person: Person, organizationSlug: string | undefined): Actor | undefined {
  const { memberships, userId, sessionId } = person
  const membership = organizationSlug
    ? memberships.find((one) => one.organizationSlug === organizationSlug)
    : memberships[0]
  if (membership) {
    const permissions = permissionsWithin(membership.role, ['*'])
    return { kind: 'user', credentialId: sessionId, userId, permissions, ...membership }
  }
  if (organizationSlug) return undefined
  throw new AppError('no_organization', 'You are a member of no organization yet: ask for an invitation')
}
