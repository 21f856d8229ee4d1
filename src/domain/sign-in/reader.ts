import type { Sql } from '../../db/client.ts'

/** The person whose browser sends a cookie, as pages speak of them. */
export interface SignedInPerson {
  userId: string
  sessionId: string
  name: string
  email: string
}

/** Adds to whoever is signed in what they are called; null for nobody. */
export async function describePerson(
  sql: Sql,
  person: { userId: string; sessionId: string } | null,
): Promise<SignedInPerson | null> {
  if (!person) return null
  const { userId, sessionId } = person
  const [user] = await sql<{ name: string; email: string }[]>`select name, email from users where id = ${userId}`
  return user ? { userId, sessionId, ...user } : null
}
