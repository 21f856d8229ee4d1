import type { PublishPass } from './thread-response.ts'

/** How far a publisher knows the queue to be empty for good; it looks at no row below. */
export interface Watermark {
  /** No row up to here is left, and none will come. */
  afterId: number
  /** Ids up to this one were given to transactions below `givenBeforeXid`: they may commit late. */
  givenId: number
  givenBeforeXid: number
}

/** Knows nothing. */
export const START: Watermark = { afterId: 0, givenId: 0, givenBeforeXid: 0 }

/**
 * Ids are given before their rows commit, so a lower one can appear after a higher one was seen; what skips it would
 * publish the replies behind it first. So the mark rises to an id only once every transaction is over that can have
 * been given one below it. (An id is given after its transaction has begun to write: `insertReplies` locks runs first.)
 */
export function raiseWatermark(from: Watermark, pass: PublishPass): Watermark {
  if (pass.oldestXid < from.givenBeforeXid) return from
  return {
    afterId: pass.seen > 0 ? Math.min(from.givenId, pass.lowestId - 1) : from.givenId,
    givenId: pass.seen > 0 ? pass.highestId : from.givenId,
    givenBeforeXid: pass.nextXid,
  }
}
