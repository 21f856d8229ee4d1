/** Seeded randomness, so that a run that failed can be had again. */
export interface Random {
  readonly seed: number
  /** In [0, 1). */
  next(): number
  /** A whole number in [min, max]. */
  int(min: number, max: number): number
  pick<T>(values: readonly T[]): T
  shuffle<T>(values: readonly T[]): T[]
}

/** Numbers of mulberry32. `LOBU_TEST_SEED` repeats an earlier run; otherwise each run has its own. */
export function createRandom(seed = Number(process.env.LOBU_TEST_SEED) || (Date.now() % 1_000_000) + 1): Random {
  let state = seed
  function next() {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
  const int = (min: number, max: number) => min + Math.floor(next() * (max - min + 1))
  return {
    seed,
    next,
    int,
    pick: (values) => values[int(0, values.length - 1)]!,
    shuffle(values) {
      const shuffled = [...values]
      for (let at = shuffled.length - 1; at > 0; at--) {
        const other = int(0, at)
        const held = shuffled[at]!
        shuffled[at] = shuffled[other]!
        shuffled[other] = held
      }
      return shuffled
    },
  }
}
