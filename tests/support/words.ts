/** What the demo model says to `/words <count>`. */
export const wordsUpTo = (count: number) => Array.from({ length: count }, (_, at) => `w${at + 1}`).join(' ')
