import { createTransport } from 'nodemailer'
import type { Mail, MailTransport } from './contract.ts'

/** Servers that greet slowly on purpose take up to half of this. */
const SMTP_MS_MAX = 15_000
/** Connections to the server; what is more waits in line. */
const CONNECTIONS_MAX = 2

export interface SmtpSettings {
  /** `smtp://` (STARTTLS where the server offers it) or `smtps://`, with user and password where it wants them. */
  url: string
  /** `Name <address>`, or the address alone. */
  from: string
}

/** Mail by SMTP. https://nodemailer.com/smtp */
export function createSmtpTransport({ url, from }: SmtpSettings): MailTransport {
  const transport = createTransport({
    url,
    pool: true,
    maxConnections: CONNECTIONS_MAX,
    connectionTimeout: SMTP_MS_MAX,
    greetingTimeout: SMTP_MS_MAX,
    socketTimeout: SMTP_MS_MAX,
    // Texts are ours: nothing in them may make the server read a file or an address.
    disableFileAccess: true,
    disableUrlAccess: true,
  })
  return {
    id: 'smtp',
    async send({ to, subject, text }: Mail) {
      try {
        // As an object the address cannot be read as a list of several.
        await transport.sendMail({ from, to: { name: '', address: to }, subject, text })
      } catch (error) {
        // The server's own words may quote the address.
        const { code = 'unknown', responseCode = '' } = error as { code?: string; responseCode?: number }
        throw new Error(`the mail was not taken (${code} ${responseCode}`.trimEnd().concat(')'), { cause: error })
      }
    },
    async close() {
      transport.close()
    },
  }
}
