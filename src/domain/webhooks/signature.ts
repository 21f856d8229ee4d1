import { createHmac, hkdfSync } from 'node:crypto'

/**
 * The key with which an organization's webhooks are signed: `lobu_webhook_…`, to be used as it stands, as UTF-8. Derived
 * from `JWT_SECRET`, so it is the same on every replica, is stored nowhere, and changes when that secret does.
 */
export function webhookSigningKey(jwtSecret: string, organizationId: string): string {
  const key = hkdfSync('sha256', jwtSecret, '', `lobu webhook signing v1:${organizationId}`, 32)
  return `lobu_webhook_${Buffer.from(key).toString('base64url')}`
}

/**
 * Value of `x-lobu-signature`: `t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">`. Receivers compute it over the raw
 * body, compare in constant time, and refuse a `t` that is minutes away from their clock.
 */
export function signWebhook(key: string, { body, unixSeconds }: { body: string; unixSeconds: number }): string {
  const mac = createHmac('sha256', key).update(`${unixSeconds}.${body}`).digest('hex')
  return `t=${unixSeconds},v1=${mac}`
}
