import { createHash, createHmac, randomBytes } from 'node:crypto'
import type { Sql } from '../../src/db/client.ts'

export interface SignedIn {
  userId: string
  email: string
  /** The header that the person's browser sends. */
  cookie: string
}

/** A person with a browser session, as SQL makes them: better-auth signs the cookie with its secret. */
export async function signInBySql(
  sql: Sql,
  { secret, name = 'Ada' }: { secret: string; name?: string },
): Promise<SignedIn> {
  const userId = `user-${randomBytes(6).toString('hex')}`
  const email = `${userId}@example.com`
  const token = randomBytes(16).toString('hex')
  await sql`insert into users (id, email, email_verified, name) values (${userId}, ${email}, true, ${name})`
  await sql`
    insert into user_sessions (id, token, user_id, expires_at)
    values (${`session-${userId}`}, ${token}, ${userId}, now() + interval '1 day')`
  const signature = createHmac('sha256', secret).update(token).digest('base64')
  return { userId, email, cookie: `lobu.session_token=${encodeURIComponent(`${token}.${signature}`)}` }
}

/** A verifier and its S256 challenge (RFC 7636). */
export function makePkce(): { verifier: string; challenge: string } {
  const verifier = randomBytes(32).toString('base64url')
  return { verifier, challenge: createHash('sha256').update(verifier).digest('base64url') }
}
