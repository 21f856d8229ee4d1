/** One message to one person, as plain text. */
export interface Mail {
  to: string
  subject: string
  /** Lines of text; links stand on lines of their own. */
  text: string
}

/** A way to send mail. Members: see `index.ts`. */
export interface MailTransport {
  readonly id: string
  /**
   * Resolves when the next server has taken the message. Rejects with a message that is safe to log; then it may be tried
   * again. Bounded in time.
   */
  send(mail: Mail): Promise<void>
  close(): Promise<void>
}
