import type { MailTransport } from '../../adapters/mail/contract.ts'
import type { InvitationMail } from './create-invitation.ts'

/** Writes an invitation to its address. Rejects when the transport does; then the inviter hands the link on. */
export function mailInvitation(
  transport: MailTransport,
  { to, url, organizationName, expiresAt }: InvitationMail,
): Promise<void> {
  const until = expiresAt.toISOString().slice(0, 10)
  return transport.send({
    to,
    subject: `Join ${organizationName.replaceAll(/[\r\n]+/g, ' ')} on Lobu`,
    text: `You are invited to ${organizationName}. Open this link to join; it works once, until ${until}:\n\n${url}\n\nIf you do not know why you got this, ignore it.\n`,
  })
}
