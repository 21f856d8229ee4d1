import type { Sql } from '../../db/client.ts'
import type { ConfidentialSettings } from '../../db/tables.ts'
import type { Envelope, Place } from '../../lib/envelope.ts'

/** What finds a conversation again; its sealed settings are bound to it. */
export interface ConversationPlace {
  organizationId: string
  agentId: string
  userId: string
  thread: string
}

export function settingsPlace({ organizationId, agentId, userId, thread }: ConversationPlace): Place {
  return [organizationId, 'conversations', agentId, userId, thread, 'sealed_settings']
}

/** Settings of a conversation as they are stored, and the key that sealed them. */
export function sealSettings(
  envelope: Envelope,
  { settings, place }: { settings: ConfidentialSettings; place: ConversationPlace },
): { sealed: string; keyId: string } {
  return { sealed: envelope.seal(JSON.stringify(settings), settingsPlace(place)), keyId: envelope.keyId }
}

/**
 * The confidential settings of a conversation, with their references unresolved; null where there are none. For the
 * gateway's own use: they go to no client and no worker.
 */
export async function readConfidentialSettings(
  sql: Sql,
  envelope: Envelope,
  { organizationId, conversationId }: { organizationId: string; conversationId: string },
): Promise<ConfidentialSettings | null> {
  const [row] = await sql<{ agentId: string; userId: string; thread: string; sealed: string | null }[]>`
    select agent_id as "agentId", user_id as "userId", thread, sealed_settings as sealed from conversations
    where organization_id = ${organizationId} and id = ${conversationId}`
  if (!row?.sealed) return null
  return JSON.parse(envelope.open(row.sealed, settingsPlace({ organizationId, ...row })))
}
