import type { PublishedEvents } from '../queue/thread-response.ts'

/**
 * What a verb says after its commit, so that others need not wait for their next poll. All of it is a hint: losing a
 * signal delays, it never loses (I8). The parts behind it are this replica's own, and the doorbell to the others.
 */
export interface Signals {
  /** The log of some conversations has grown. */
  published(events: PublishedEvents[]): void
  /** A run can be claimed; by `preferredReplica` first when one is named. */
  runReady(preferredReplica?: string): void
  /** Runs have ended, by whatever way; for the figures. */
  runsEnded(ends: { count: number; status: 'completed' | 'failed' | 'cancelled'; deadLetter: boolean }): void
  /** A run was ended from outside: whoever works on it must stop. */
  runEnded(runId: string): void
  /** A conversation was ended: its streams close. */
  conversationEnded(key: { organizationId: string; conversationId: string }): void
  /** A key, a member, a session or a grant has changed: what replicas remember of callers no longer counts. */
  accessChanged(): void
}
