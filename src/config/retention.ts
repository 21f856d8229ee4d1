import type { Env } from './environment.ts'

const DAY_MS = 86_400_000

/** How long each kind of row is kept. */
export function retentionSettings(e: Env) {
  return {
    logKeepMs: e.LOG_KEEP_SECONDS * 1000,
    deadLettersKeepMs: e.DEAD_LETTERS_KEEP_SECONDS * 1000,
    webhooksKeepMs: e.WEBHOOKS_KEEP_SECONDS * 1000,
    /** Null: for ever. */
    conversationsKeepMs: e.CONVERSATIONS_KEEP_DAYS === 0 ? null : e.CONVERSATIONS_KEEP_DAYS * DAY_MS,
    auditKeepDays: e.AUDIT_KEEP_DAYS,
    usageKeepDays: e.USAGE_KEEP_DAYS,
    signInKeepMs: e.SIGN_IN_KEEP_SECONDS * 1000,
    invitationsKeepMs: e.INVITATIONS_KEEP_DAYS * DAY_MS,
    keysKeepMs: e.KEYS_KEEP_DAYS * DAY_MS,
  }
}
