import { sleep } from '../../lib/sleep.ts'
import type { Signals } from '../signals.ts'

/**
 * What a replica remembers of a caller counts for this long, measured from before it was looked up. Every change is rung
 * to all replicas, which then forget at once; this is the bound where nobody hears the ring.
 */
export const ACCESS_CACHE_MS = 250

/**
 * To be called after the commit of a change that takes access away. Resolves when the change holds on every replica,
 * also on one that did not hear of it: whoever asks after the answer is refused everywhere.
 */
export async function enforceEverywhere(signals: Signals): Promise<void> {
  signals.accessChanged()
  await sleep(ACCESS_CACHE_MS)
}
