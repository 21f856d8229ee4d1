/** Seconds that `npm run soak` gives; 0 in `npm test`, where each test does as much as proves its point. */
export const SOAK_SECONDS = Number(process.env.SOAK_SECONDS) || 0

/** How much of something a test does: little in `npm test`, much in `npm run soak`. */
export function effort(short: number, long: number): number {
  return SOAK_SECONDS > 0 ? long : short
}
