import type { Mail, MailTransport } from '../../adapters/mail/contract.ts'
import { errorLine } from '../../lib/errors.ts'
import type { Logger } from '../../lib/logger.ts'

/** What is written to people about their account. Nobody waits for it, so how long it takes tells nothing. */
export interface AccountMails {
  verify(to: string, url: string): void
  resetPassword(to: string, url: string): void
  signIn(to: string, url: string): void
}

export function createAccountMails({ transport, log }: { transport: MailTransport; log: Logger }): AccountMails {
  function post(kind: string, mail: Mail) {
    transport.send(mail).then(
      () => log.info({ kind }, 'mail sent'),
      (error: unknown) => log.error({ kind, err: errorLine(error) }, 'mail not sent'),
    )
  }

  return {
    verify: (to, url) =>
      post('verify', {
        to,
        subject: 'Confirm your address',
        text: `Open this link to confirm that this address is yours:\n\n${url}\n\nIf you did not ask for it, ignore this message.\n`,
      }),
    resetPassword: (to, url) =>
      post('reset', {
        to,
        subject: 'Choose a new password',
        text: `Open this link to choose a new password. It works once, for an hour:\n\n${url}\n\nIf you did not ask for it, ignore this message: your password stays as it is.\n`,
      }),
    signIn: (to, url) =>
      post('sign-in', {
        to,
        subject: 'Your link to sign in',
        text: `Open this link to sign in. It works once, for 15 minutes:\n\n${url}\n\nIf you did not ask for it, ignore this message.\n`,
      }),
  }
}
