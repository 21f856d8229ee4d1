import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { newMessageId, sha256 } from '../../lib/ids.ts'
import { storable } from '../../lib/text.ts'
import type { ClaimedRun } from '../../queue/runs.ts'
import { type Actor, requireConversation } from '../accounts/actor.ts'
import { toReference } from '../files/attach.ts'
import type { StoredFile } from '../files/files.ts'
import type { Backlog } from '../limits/backlog.ts'
import { type Budgets, budgetExhausted } from '../limits/budget.ts'
import type { Signals } from '../signals.ts'
import { type Accepted, acceptMessage, findEarlier, type OnBusy } from './accept.ts'

export interface PostMessage {
  actor: Actor
  conversationId: string
  content: string
  messageId?: string | undefined
  /** Header of that name: stands in for a message id where the client gave none. */
  idempotencyKey?: string | undefined
  onBusy: OnBusy
  webhookUrl?: string | undefined
  /** Where the message came from, as the caller says; recorded in the hash, never trusted for routing. */
  origin: Record<string, unknown>
  files: StoredFile[]
  traceparent?: string | undefined
}

/** The workers of this replica, as far as accepting a message goes. */
export interface LocalRunner {
  reserve(): boolean
  settle(run: ClaimedRun | null): void
  hasWorker(organizationId: string, conversationId: string): boolean
}

export interface PostOptions {
  replica: string
  leaseMs: number
  depthMax: number
  organizationMax: number
  workerIdleMs: number
}

/** A run whose conversation's worker lives on another replica is kept for that one this long. */
const PREFERRED_MS = 250

/**
 * Accepts a message and starts its turn: on this replica in the same commit when it has a free worker, otherwise on
 * whichever claims it. Answers after the commit, never before (I1).
 * @throws AppError 'budget_exhausted', 'queue_full', and what `acceptMessage` throws.
 */
export async function postMessage(
  deps: { sql: Sql; signals: Signals; runner: LocalRunner; budgets: Budgets; backlog: Backlog },
  post: PostMessage,
  options: PostOptions,
): Promise<Accepted> {
  requireConversation(post.actor, post.conversationId)
  const { organizationId } = post.actor
  const text = storable(post.content)
  const messageId = post.messageId ?? idFromKey(post) ?? newMessageId()
  const bodyHash = hashOf(post)
  const refusal = await findRefusal(deps, organizationId)
  if (refusal) {
    // What was accepted before keeps its answer.
    const earlier = await findEarlier(deps.sql, { ...post, organizationId, messageId, bodyHash })
    if (earlier) return earlier
    throw refusal
  }
  const reserved = deps.runner.reserve()
  let claimed: ClaimedRun | null = null
  try {
    const accepted = await acceptMessage(
      deps,
      {
        organizationId,
        conversationId: post.conversationId,
        messageId,
        content: { role: 'user', content: toContent(text, post.files) },
        text,
        bodyHash,
        fileIds: post.files.map((file) => file.id),
        onBusy: post.onBusy,
        webhookUrl: post.webhookUrl ?? null,
        traceparent: post.traceparent ?? null,
      },
      {
        ...options,
        preferredMs: PREFERRED_MS,
        claimHere: reserved,
        workerHere: deps.runner.hasWorker(organizationId, post.conversationId),
      },
    )
    claimed = accepted.claimed
    return accepted
  } finally {
    if (reserved) deps.runner.settle(claimed)
  }
}

/** Why the organization may send no message now; null when it may. */
export async function findRefusal(
  { budgets, backlog }: { budgets: Budgets; backlog: Backlog },
  organizationId: string,
): Promise<AppError | null> {
  const exhausted = await budgets.findExhausted(organizationId)
  if (exhausted) return budgetExhausted(exhausted)
  return backlog.admit(organizationId).then(
    () => null,
    (error: unknown) => {
      if (error instanceof AppError && error.code === 'queue_full') return error
      throw error
    },
  )
}

/** The same key in the same conversation always names the same message. */
function idFromKey(post: PostMessage): string | undefined {
  return post.idempotencyKey && `key-${sha256(post.idempotencyKey).slice(0, 32)}`
}

function toContent(text: string, files: StoredFile[]) {
  if (files.length === 0) return text
  return [...(text === '' ? [] : [{ type: 'text', text }]), ...files.map(toReference)]
}

/** Tells a repeated request from another one under the same id; a file counts by its bytes, whatever its stored id. */
function hashOf(post: PostMessage): string {
  const files = post.files.map((file) => [file.name, file.mediaType, file.sha256])
  return sha256(JSON.stringify([post.content, post.onBusy, post.webhookUrl ?? null, post.origin, files]))
}
