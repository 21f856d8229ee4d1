/** Values that documentation prints where a secret belongs. Single words are not among them: a passphrase has those. */
const PLACEHOLDER = /replace-with|change-?me|your-secret|example-(?:secret|key)|placeholder|^(.)\1*$/i
const SECRET_CHARS_MIN = 32

/** Production needs its secrets from outside and refuses what everybody knows; development may leave them empty. */
export function productionFaults(given: Record<string, string>): string[] {
  if (given.NODE_ENV !== 'production') return []
  const faults: string[] = []
  for (const name of ['JWT_SECRET', 'BETTER_AUTH_SECRET'] as const) {
    const value = given[name]
    if (value === undefined) faults.push(`${name}: is required in production (openssl rand -base64 48)`)
    else faults.push(...weaknesses(name, value))
  }
  if (given.ENCRYPTION_KEY !== undefined) faults.push(...weaknesses('ENCRYPTION_KEY', given.ENCRYPTION_KEY))
  if (given.DATABASE_URL === undefined) {
    faults.push('DATABASE_URL: is required in production; the embedded database is for development')
  }
  return faults
}

function weaknesses(name: string, value: string): string[] {
  if (PLACEHOLDER.test(value)) return [`${name}: is a placeholder from the documentation; make your own`]
  if (value.length < SECRET_CHARS_MIN) return [`${name}: is shorter than ${SECRET_CHARS_MIN} characters`]
  return []
}
