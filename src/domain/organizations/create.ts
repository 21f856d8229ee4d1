import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { newId } from '../../lib/ids.ts'
import type { Requester } from '../accounts/actor.ts'
import { ORGANIZATION as DEFAULT } from '../accounts/bootstrap.ts'
import { endProviderSessions } from '../accounts/provider-sessions.ts'
import { ensureDefaultAgent } from '../agents/default-agent.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import type { Organization } from './get.ts'
import { isReservedSlug, slugOf } from './slug.ts'

/** What one person may own, so that nobody fills the table. */
const OWNED_MAX = 100
/** Transaction lock: of two first organizations of an install for one, one is made. */
const SINGLE_LOCK = 7_262_027_005

export interface CreateOrganizationDeps {
  /** The pool itself: an organization cannot make another one. */
  sql: Sql
  signals: Signals
  /** Refuses to make a second one. */
  singleOrganization: boolean
}

/**
 * Makes an organization with its default agent; whoever asks becomes its owner. Without a slug it gets one like its name.
 * @throws AppError 'conflict' when the slug is taken or reserved; 'limit_reached'; 'forbidden' where there may be only one.
 */
export async function createOrganization(
  deps: CreateOrganizationDeps,
  args: { requester: Requester; name: string; slug?: string | undefined },
): Promise<Organization> {
  const { requester, name, slug } = args
  if (slug !== undefined) requireFreeWord(slug)
  const organization = await inTransaction(deps.sql, async (tx) => {
    if (deps.singleOrganization) await requireFirst(tx)
    await requireRoomForOwner(tx, requester.userId)
    const made = await insert(tx, { name, slug })
    await tx`
      insert into members (organization_id, user_id, role) values (${made.id}, ${requester.userId}, 'owner')`
    const exceptSessionId = requester.kind === 'user' ? requester.credentialId : undefined
    await endProviderSessions(tx, { userId: requester.userId, exceptSessionId })
    await ensureDefaultAgent(tx, made.id)
    const details = { name, slug: made.slug }
    const target = { targetKind: 'organization', targetId: made.id, details }
    await recordAudit(tx, { ...requester, organizationId: made.id }, { action: 'organization.created', ...target })
    return made
  })
  deps.signals.accessChanged()
  return organization
}

/** @throws AppError 'conflict' */
export function requireFreeWord(slug: string): void {
  if (isTaken(slug)) throw new AppError('conflict', `"${slug}" is reserved; choose another slug`)
}

/**
 * The default organization's word stays its own when it has another one by now: the gateway makes keys for whatever is
 * called so, and members of who comes from the operator's sign-in provider.
 */
function isTaken(slug: string): boolean {
  return isReservedSlug(slug) || slug === DEFAULT.slug
}

async function insert(tx: Sql, { name, slug }: { name: string; slug: string | undefined }): Promise<Organization> {
  const like = slugOf(name) ?? 'team'
  const given = slug ?? (isTaken(like) ? `${like}-team` : like)
  const made =
    (await tryInsert(tx, given, name)) ?? (slug === undefined ? await tryInsert(tx, unlike(given), name) : null)
  if (!made) throw new AppError('conflict', 'This slug is taken')
  return made
}

async function tryInsert(tx: Sql, slug: string, name: string): Promise<Organization | null> {
  const [row] = await tx<Organization[]>`
    insert into organizations (id, slug, name) values (${newId('org')}, ${slug}, ${name})
    on conflict (slug) do nothing returning id, slug, name, created_at as "createdAt"`
  return row ?? null
}

/** The same word with 40 random bits behind it. */
function unlike(slug: string): string {
  const random = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => (byte % 32).toString(32)).join('')
  return `${slug}-${random}`
}

async function requireFirst(tx: Sql): Promise<void> {
  await tx`select pg_advisory_xact_lock(${SINGLE_LOCK})`
  const found = await tx`select 1 from organizations limit 1`
  if (found.length > 0) throw new AppError('forbidden', 'This gateway serves one organization; ask for an invitation')
}

async function requireRoomForOwner(tx: Sql, userId: string): Promise<void> {
  const [row] = await tx<{ owned: number }[]>`
    select count(*)::int as owned from members where user_id = ${userId} and role = 'owner'`
  if (row!.owned < OWNED_MAX) return
  throw new AppError('limit_reached', `Nobody can own more than ${OWNED_MAX} organizations`)
}
