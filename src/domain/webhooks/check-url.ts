import { checkUrl, parseAllowedHosts } from '../../adapters/outbound/contract.ts'
import { AppError } from '../../lib/errors.ts'

/**
 * Refuses a webhook URL that can never be called, before anything is stored. Asks no DNS: a name that leads into a
 * network that is not public is found out at delivery.
 *
 * @param options.allowedHosts the operator's `host` and `host:port` entries, which may have any address.
 * @throws AppError `invalid_request`.
 */
export function checkWebhookUrl(url: string, options: { allowedHosts: readonly string[] }): void {
  checkOutsideUrl('webhookUrl', url, options)
}

/** The same for another field that names something outside. */
export function checkOutsideUrl(field: string, url: string, options: { allowedHosts: readonly string[] }): void {
  const checked = checkUrl(url, parseAllowedHosts(options.allowedHosts))
  if (!checked.ok) throw new AppError('invalid_request', `${field} cannot be called: ${checked.message}`)
}
