import { ALL_PERMISSIONS, PERMISSIONS, type Permission } from './permissions.ts'

/** What a program may learn about the person, and how long it may stay. https://openid.net/specs/openid-connect-core-1_0.html */
const IDENTITY = {
  openid: 'Know which account is yours',
  profile: 'See your name and picture',
  email: 'See your email address',
  offline_access: 'Stay connected until you take it back',
} as const

/** All that a program can ask for: permissions under their own names, and the four above. */
export const OAUTH_SCOPES = [...(Object.keys(IDENTITY) as (keyof typeof IDENTITY)[]), ...ALL_PERMISSIONS]

/** What a program gets that asks for nothing in particular: enough to chat, and nothing to manage. */
export const DEFAULT_SCOPE = 'openid profile email offline_access conversations:use agents:read'

/** What a scope means to the person who grants it; null for a word that is none. */
export function describeScope(scope: string): string | null {
  if (Object.hasOwn(IDENTITY, scope)) return IDENTITY[scope as keyof typeof IDENTITY]
  return Object.hasOwn(PERMISSIONS, scope) ? PERMISSIONS[scope as Permission] : null
}
