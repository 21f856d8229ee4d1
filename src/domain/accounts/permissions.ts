/** What can be allowed, with what it means to a person who grants it. Routes, key scopes, OAuth scopes and pages read this table. */
export const PERMISSIONS = {
  'conversations:use': 'Open conversations, send messages, follow and cancel answers',
  'agents:read': 'See agents and their settings',
  'agents:write': 'Make, change and remove agents',
  'connections:read': 'See chat connections',
  'connections:write': 'Make, change and remove chat connections',
  'members:read': 'See members and invitations',
  'members:write': 'Invite, change and remove members',
  'keys:read': 'See API keys',
  'keys:write': 'Make, rotate and revoke API keys',
  'secrets:read': 'See the names of secrets, never their values',
  'secrets:write': 'Set and remove secrets and provider keys',
  'usage:read': 'See what was used and what it cost',
  'limits:write': 'Set limits and budgets',
  'organization:write': 'Change the organization and how its people sign in',
  'audit:read': 'Read and export the audit log',
  'organization:delete': 'Transfer or delete the organization',
} as const

export type Permission = keyof typeof PERMISSIONS

export const ALL_PERMISSIONS = Object.keys(PERMISSIONS) as Permission[]

const VIEWER: Permission[] = ['agents:read', 'connections:read', 'members:read', 'usage:read']
const MEMBER: Permission[] = [...VIEWER, 'conversations:use', 'keys:read', 'keys:write']
const ADMIN: Permission[] = ALL_PERMISSIONS.filter(
  (permission) => permission !== 'organization:delete' && permission !== 'audit:read',
)

/** Roles of members, from the most powerful down. */
export const ROLES = { owner: ALL_PERMISSIONS, admin: ADMIN, member: MEMBER, viewer: VIEWER } as const

export type Role = keyof typeof ROLES

export const ROLE_NAMES = Object.keys(ROLES) as [Role, ...Role[]]

/** Whether `role` may do everything that `other` may: nobody hands out more than they have. */
export function includesRole(role: Role, other: Role): boolean {
  return ROLE_NAMES.indexOf(role) <= ROLE_NAMES.indexOf(other)
}

/**
 * As whom a credential counts among members. One that is limited to some permissions is no owner and no admin, whoever made
 * it: what it was not given must not be had by way of those who have it.
 */
export function rankOf({
  role,
  permissions,
}: {
  role: Role | null
  permissions: ReadonlySet<Permission>
}): Role | null {
  if (role === null) return null
  const whole = ROLE_NAMES.find((one) => includesRole(role, one) && ROLES[one].every((each) => permissions.has(each)))
  if (whole !== undefined && includesRole(whole, 'member')) return whole
  return includesRole(role, 'member') ? 'member' : role
}

/** What is left of a member's permissions in a credential with these scopes. `*` stands for all of them. */
export function permissionsWithin(role: Role, scopes: readonly string[]): ReadonlySet<Permission> {
  const own: readonly Permission[] = ROLES[role]
  return new Set(scopes.includes('*') ? own : own.filter((permission) => scopes.includes(permission)))
}
