/** Text that streams in pieces smaller than is worth a frame. */
export interface DeltaBuffer {
  push(text: string): void
  /** Sends what waits. The piece after a flush goes out at once. */
  flush(): void
}

/**
 * Joins pieces of text that come faster than one every `everyMs`. The first piece is sent at once, so a reader sees
 * the answer begin without delay; what follows within `everyMs` is sent together. A character that a provider splits
 * between two pieces is never sent in halves: each half alone would become U+FFFD in the database.
 */
export function createDeltaBuffer(args: { everyMs: number; send(text: string): void }): DeltaBuffer {
  let waiting = ''
  let timer: NodeJS.Timeout | undefined

  function sendWhole() {
    const whole = endsInHalfCharacter(waiting) ? waiting.slice(0, -1) : waiting
    waiting = waiting.slice(whole.length)
    if (whole === '') return
    timer = setTimeout(onTimer, args.everyMs)
    args.send(whole)
  }

  function onTimer() {
    timer = undefined
    sendWhole()
  }

  return {
    push(text) {
      waiting += text
      if (timer === undefined) sendWhole()
    },
    flush() {
      clearTimeout(timer)
      timer = undefined
      if (waiting !== '') args.send(waiting)
      waiting = ''
    },
  }
}

function endsInHalfCharacter(text: string): boolean {
  const last = text.charCodeAt(text.length - 1)
  return last >= 0xd800 && last <= 0xdbff
}
