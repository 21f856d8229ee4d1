import type { Env } from './environment.ts'

/** How people sign in, from the settings that belong together. */
export function accountSettings(e: Env) {
  const pair = (clientId: string | undefined, clientSecret: string | undefined) =>
    clientId !== undefined && clientSecret !== undefined ? { clientId, clientSecret } : null
  const google = pair(e.GOOGLE_CLIENT_ID, e.GOOGLE_CLIENT_SECRET)
  const github = pair(e.GITHUB_CLIENT_ID, e.GITHUB_CLIENT_SECRET)
  const oidc = pair(e.OIDC_CLIENT_ID, e.OIDC_CLIENT_SECRET)
  return {
    signUp: e.SIGN_UP,
    smtp: e.SMTP_URL !== undefined && e.MAIL_FROM !== undefined ? { url: e.SMTP_URL, from: e.MAIL_FROM } : null,
    google: google && { ...google, issuer: e.GOOGLE_ISSUER_URL },
    github: github && { ...github, baseUrl: e.GITHUB_BASE_URL, apiUrl: e.GITHUB_API_URL },
    oidc:
      oidc && e.OIDC_ISSUER !== undefined
        ? { ...oidc, issuer: e.OIDC_ISSUER, name: e.OIDC_NAME, role: e.OIDC_ROLE ?? null }
        : null,
  }
}

/** Of settings that mean nothing alone, a half is a mistake and not a wish. */
const PAIRS = [
  ['SMTP_URL', 'MAIL_FROM'],
  ['GOOGLE_CLIENT_ID', 'GOOGLE_CLIENT_SECRET'],
  ['GITHUB_CLIENT_ID', 'GITHUB_CLIENT_SECRET'],
  ['OIDC_ISSUER', 'OIDC_CLIENT_ID', 'OIDC_CLIENT_SECRET'],
]

/** One sentence for each setting that is missing beside others. */
export function incompletePairs(given: Record<string, string>): string[] {
  return PAIRS.flatMap((names) => {
    const missing = names.filter((name) => given[name] === undefined)
    const isWhole = missing.length === 0 || missing.length === names.length
    return isWhole
      ? []
      : missing.map((name) => `${name}: is needed beside ${names.filter((one) => one !== name).join(', ')}`)
  })
}

/** What never leaves the machine needs no TLS, and browsers think so too. */
const LOOPBACK = /^http:\/\/(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/

/** Why people cannot sign in safely, or at all, under the public URL; null when they can. */
export function publicUrlFault(url: string | undefined): string | null {
  if (url === undefined) return 'PUBLIC_WEB_URL is not set: links, sign-in and callbacks point to http://localhost'
  if (!url.startsWith('https:') && !LOOPBACK.test(url))
    return 'PUBLIC_WEB_URL is not https: cookies and passwords travel unprotected'
  return null
}

/** @throws Error that tells which entry is no origin, without repeating it. */
export function readOrigins(text: string): string[] {
  return text
    .split(',')
    .map((entry) => entry.trim().replace(/\/+$/, ''))
    .filter((entry) => entry !== '')
    .map((entry, index) => {
      if (URL.parse(entry)?.origin === entry) return entry
      throw new Error(`entry ${index + 1} is not an origin like https://example.com`)
    })
}
