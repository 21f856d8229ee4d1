import type { Sql } from '../../db/client.ts'
import type { AccessGrant } from './access-token.ts'

/** What a program learns about its person, under the names that OpenID Connect and published clients use. */
export interface UserInfo {
  sub: string
  email?: string
  email_verified?: boolean
  name?: string
  picture?: string | null
  organization_slug: string | null
  organizations: { id: string; slug: string; name: string }[]
}

/** Name, picture and address come with their scopes alone; the organizations are what the token works in. */
export async function readUserInfo(sql: Sql, grant: AccessGrant): Promise<UserInfo | null> {
  const { userId, scopes, memberships } = grant
  const [user] = await sql<{ email: string; emailVerified: boolean; name: string; image: string | null }[]>`
    select email, email_verified as "emailVerified", name, image from users where id = ${userId}`
  if (!user) return null
  return {
    sub: userId,
    ...(scopes.includes('email') ? { email: user.email, email_verified: user.emailVerified } : {}),
    ...(scopes.includes('profile') ? { name: user.name, picture: user.image } : {}),
    organization_slug: memberships[0]?.organizationSlug ?? null,
    organizations: memberships.map(({ organizationId, organizationSlug, name }) => ({
      id: organizationId,
      slug: organizationSlug,
      name,
    })),
  }
}
