/** Of one piece that is sent, in UTF-16 units. As JSON each takes six bytes at most, far less than a line may have. */
const CHARS_MAX = 65_536

/** Text that streams in pieces smaller than is worth a frame. */
export interface DeltaBuffer {
  push(text: string): void
  /** Sends what waits. The piece after a flush goes out at once. */
  flush(): void
}

/**
 * Joins pieces of text that come faster than one every `everyMs`. The first piece is sent at once, so a reader sees
 * the answer begin without delay; what follows within `everyMs` is sent together. A character that a provider splits
 * between two pieces is never sent in halves: each half alone would become U+FFFD in the database. What is sent has 65,536 UTF-16
 * units at most, however fast the text comes.
 */
export function createDeltaBuffer(args: { everyMs: number; send(text: string): void }): DeltaBuffer {
  let waiting = ''
  let timer: NodeJS.Timeout | undefined

  function sendWhole() {
    const whole = endsInHalfCharacter(waiting) ? waiting.slice(0, -1) : waiting
    waiting = waiting.slice(whole.length)
    if (whole === '') return
    clearTimeout(timer)
    timer = setTimeout(onTimer, args.everyMs)
    sendPieces(whole)
  }

  function sendPieces(text: string) {
    for (let from = 0; from < text.length; ) {
      const piece = text.slice(from, from + CHARS_MAX)
      const isCut = from + piece.length < text.length && endsInHalfCharacter(piece)
      args.send(isCut ? piece.slice(0, -1) : piece)
      from += isCut ? piece.length - 1 : piece.length
    }
  }

  function onTimer() {
    timer = undefined
    sendWhole()
  }

  return {
    push(text) {
      waiting += text
      if (timer === undefined || waiting.length >= CHARS_MAX) sendWhole()
    },
    flush() {
      clearTimeout(timer)
      timer = undefined
      sendPieces(waiting)
      waiting = ''
    },
  }
}

function endsInHalfCharacter(text: string): boolean {
  const last = text.charCodeAt(text.length - 1)
  return last >= 0xd800 && last <= 0xdbff
}
