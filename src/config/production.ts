/** Values that documentation prints where a secret belongs. Single words are not among them: a passphrase has those. */
const PLACEHOLDER = /replace-with|change-?me|your-secret|example-(?:secret|key)|placeholder|^(.)\1*$/i
const SECRET_CHARS_MIN = 32

/**
 * Production needs its secrets from outside and refuses what everybody knows; development may leave them empty, and so
 * may commands that use none.
 */
export function productionFaults(given: Record<string, string>, needsSecrets: boolean): string[] {
  if (given.NODE_ENV !== 'production') return []
  const faults: string[] = []
  for (const name of ['JWT_SECRET', 'BETTER_AUTH_SECRET'] as const) {
    if (needsSecrets && given[name] === undefined)
      faults.push(`${name}: is required in production (openssl rand -base64 48)`)
  }
  faults.push(...weakSecrets(given))
  if (given.DATABASE_URL === undefined) {
    faults.push('DATABASE_URL: is required in production; the embedded database is for development')
  }
  return faults
}

/** Those that are there but no secret: everybody knows them, or they can be guessed. */
export function weakSecrets(given: Record<string, string>): string[] {
  return ['JWT_SECRET', 'BETTER_AUTH_SECRET', 'ENCRYPTION_KEY'].flatMap((name) => {
    const value = given[name] ?? ''
    if (PLACEHOLDER.test(value)) return [`${name}: is a placeholder from the documentation; make your own`]
    if (value !== '' && value.length < SECRET_CHARS_MIN)
      return [`${name}: is shorter than ${SECRET_CHARS_MIN} characters`]
    return []
  })
}
