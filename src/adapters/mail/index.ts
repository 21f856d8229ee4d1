import type { MailTransport } from './contract.ts'
import { createSmtpTransport, type SmtpSettings } from './smtp.ts'

/** The configured way to send mail; null without one. */
export function createMailTransport({ smtp }: { smtp: SmtpSettings | null }): MailTransport | null {
  return smtp && createSmtpTransport(smtp)
}
