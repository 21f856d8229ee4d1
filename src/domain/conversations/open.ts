import type { Sql } from '../../db/client.ts'
import type { ConfidentialSettings, ConversationSettings } from '../../db/tables.ts'
import { inTransaction } from '../../db/transaction.ts'
import type { Envelope } from '../../lib/envelope.ts'
import { AppError } from '../../lib/errors.ts'
import { newId } from '../../lib/ids.ts'
import { storable } from '../../lib/text.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { type ConversationPlace, sealSettings } from './confidential.ts'

export interface OpenConversation {
  actor: Actor
  agentId?: string | undefined
  userId?: string | undefined
  thread?: string | undefined
  forceNew: boolean
  /** Checks everything and stores nothing; the returned id leads nowhere. */
  dryRun: boolean
  settings: ConversationSettings
  /** Stored sealed. Like the other settings they take the place of those that a resumed conversation had. */
  confidential?: { settings: ConfidentialSettings; envelope: Envelope } | undefined
  /** The model that the caller asks for, as `provider/model`, once the agent is known. What it throws is the caller's answer. */
  chooseModel?: ((agentId: string) => Promise<string>) | undefined
}

export interface OpenedConversation {
  conversationId: string
  agentId: string
  userId: string
  created: boolean
}

const DEFAULT_NAME = 'default'
/** Callers that may come in between, each with a new conversation of its own. */
const REPLACE_TRIES = 100
/** An agent's last use is known to about a minute. */
const USED_NOTE_MS = 60_000

/**
 * Finds the conversation of this agent, user and thread, or makes it. Two callers at once get the same one.
 * With `forceNew` a new one takes its place; the old one stays reachable by its id.
 *
 * @throws AppError 'not_found' for an unknown agent, 'forbidden' for a session token.
 */
export async function openConversation(sql: Sql, args: OpenConversation): Promise<OpenedConversation> {
  requireOpener(args.actor)
  const { organizationId } = args.actor
  const agentId = await findAgent(sql, args)
  const model = await args.chooseModel?.(agentId)
  const place = {
    organizationId,
    agentId,
    userId: args.userId ?? args.actor.userId,
    thread: args.thread ?? DEFAULT_NAME,
  }
  if (args.dryRun) {
    const known = args.forceNew ? null : await findByPlace(sql, place)
    return { conversationId: known ?? newId('conv'), agentId, userId: place.userId, created: known === null }
  }
  const settings = { open: storable({ ...args.settings, ...(model ? { model } : {}) }), ...sealed(args, place) }
  const opened = await inTransaction(sql, (tx) =>
    args.forceNew ? replace(tx, place, settings) : findOrMake(tx, place, settings),
  )
  return { conversationId: opened.id, agentId, userId: place.userId, created: opened.created }
}

interface StoredSettings {
  open: ConversationSettings
  sealed: string | null
  keyId: string | null
}

function sealed({ confidential }: OpenConversation, place: ConversationPlace): Omit<StoredSettings, 'open'> {
  if (!confidential) return { sealed: null, keyId: null }
  return sealSettings(confidential.envelope, { settings: confidential.settings, place })
}

/** A session token has its conversation already. */
function requireOpener(actor: Actor) {
  if (actor.kind === 'session') throw new AppError('forbidden', 'A session token cannot do this; use an API key')
  requirePermission(actor, 'conversations:use')
}

/**
 * The agent, noted as used. The note is a minute apart at the least: all callers of an organization share this row, and
 * would wait for each other.
 */
async function findAgent(sql: Sql, { actor, agentId, dryRun }: OpenConversation): Promise<string> {
  const { organizationId } = actor
  const [agent] = await sql<{ id: string; isNoteOld: boolean }[]>`
    select id, coalesce(last_used_at < now() - ${USED_NOTE_MS} * interval '1 millisecond', true) as "isNoteOld"
    from agents
    where organization_id = ${organizationId} and ${agentId === undefined ? sql`is_default` : sql`id = ${agentId}`}`
  if (!agent) throw new AppError('not_found', agentId === undefined ? 'No default agent' : 'No such agent')
  if (agent.isNoteOld && !dryRun) {
    await sql`
      update agents set last_used_at = now() where organization_id = ${organizationId} and id in (
        select id from agents where organization_id = ${organizationId} and id = ${agent.id} for update skip locked)`
  }
  return agent.id
}

/** An insert that meets an existing row updates it to itself, so that the row comes back, locked, in either case. */
async function findOrMake(tx: Sql, place: ConversationPlace, settings: StoredSettings) {
  const given = tx.json(settings.open as never)
  const [row] = await tx<{ id: string; created: boolean }[]>`
    insert into conversations (organization_id, id, agent_id, user_id, thread, settings, sealed_settings, settings_key_id)
    values (${place.organizationId}, ${newId('conv')}, ${place.agentId}, ${place.userId}, ${place.thread}, ${given},
      ${settings.sealed}, ${settings.keyId})
    on conflict (organization_id, agent_id, user_id, thread) where status = 'active' and resumable
      do update set settings = conversations.settings || excluded.settings,
        sealed_settings = coalesce(excluded.sealed_settings, conversations.sealed_settings),
        settings_key_id = coalesce(excluded.settings_key_id, conversations.settings_key_id)
    returning id, (xmax = 0) as created`
  return row!
}

async function findByPlace(sql: Sql, place: ConversationPlace): Promise<string | null> {
  const [row] = await sql<{ id: string }[]>`select id from conversations where ${atPlace(sql, place)}`
  return row?.id ?? null
}

/** Of two callers at once each gets a conversation of its own: who comes second retires the first one's. */
async function replace(tx: Sql, place: ConversationPlace, settings: StoredSettings) {
  for (let tries = 1; tries <= REPLACE_TRIES; tries++) {
    await tx`update conversations set resumable = false where ${atPlace(tx, place)}`
    const [row] = await tx<{ id: string }[]>`
      insert into conversations (organization_id, id, agent_id, user_id, thread, settings, sealed_settings, settings_key_id)
      values (${place.organizationId}, ${newId('conv')}, ${place.agentId}, ${place.userId}, ${place.thread},
        ${tx.json(settings.open as never)}, ${settings.sealed}, ${settings.keyId})
      on conflict do nothing returning id`
    if (row) return { id: row.id, created: true }
  }
  throw new AppError('saturated', 'Too many callers replace this conversation at once')
}

function atPlace(sql: Sql, place: ConversationPlace) {
  return sql`organization_id = ${place.organizationId} and agent_id = ${place.agentId} and user_id = ${place.userId}
    and thread = ${place.thread} and status = 'active' and resumable`
}
