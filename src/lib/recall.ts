import { LRUCache } from 'lru-cache'

/** What was looked up a moment ago, under names. */
export interface Recall<Value extends object> {
  /** What is known under the name, else what `find` says, which is kept unless it is null. */
  get(name: string, find: () => Promise<Value | null>): Promise<Value | null>
  /** Something has changed: nothing that was known counts any more, nor what is being looked up now. */
  forget(): void
}

/**
 * Remembers at most `max` look-ups, the ones used last, for at most `ttlMs`. That time counts from before the look-up: what it
 * saw was true then, and may have changed since. For the same reason a look-up that began before `forget` is answered and
 * not kept: it may have seen what was there before the change.
 */
export function createRecall<Value extends object>({ max, ttlMs }: { max: number; ttlMs: number }): Recall<Value> {
  // The very clock that `start` is read from: the library holds on to the one it found when it was loaded.
  const clock = { now: () => performance.now() }
  const known = new LRUCache<string, Value>({ max, ttl: ttlMs, perf: clock })
  let generation = 0
  return {
    async get(name, find) {
      const cached = known.get(name)
      if (cached) return cached
      const [begun, start] = [generation, clock.now()]
      const found = await find()
      if (found && begun === generation) known.set(name, found, { start })
      return found
    },
    forget() {
      generation++
      known.clear()
    },
  }
}
