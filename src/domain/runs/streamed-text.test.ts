import { expect, test } from 'vitest'
import { findResumePoint, joinSteps, STEP_SEPARATOR } from './streamed-text.ts'

/** Turns as a model may make them: some steps only call tools, some texts look like the separator. */
const TURNS = [
  ['one step only'],
  ['first', 'second', 'third'],
  ['', 'after a silent step', '', '', 'the end'],
  ['ends with a break\n\n', '\n\nbegins with one', '\n\n', 'x'],
  ['', ''],
  ['ab🎉', 'ab🎉ab🎉'],
]

/** The pieces in which a turn is streamed, step by step; a separator goes out with the first piece behind it. */
function piecesOf(steps: string[], chars: number): string[][] {
  let spoke = false
  return steps.map((text) => {
    const pieces: string[] = []
    for (let at = 0; at < text.length; at += chars) pieces.push(text.slice(at, at + chars))
    if (pieces.length > 0 && spoke) pieces[0] = STEP_SEPARATOR + pieces[0]
    spoke ||= pieces.length > 0
    return pieces
  })
}

/** Goes on where a crash left `saved` steps and a `streamed` text; returns all that clients have seen in the end. */
function resume(steps: string[], saved: string[], streamed: string): string {
  const { missing, partial } = findResumePoint(saved, streamed)
  let seen = streamed + missing
  for (const [index, text] of steps.slice(saved.length).entries()) {
    const begun = index === 0 ? partial : ''
    if (!text.startsWith(begun)) throw new Error(`the model would go on behind ${JSON.stringify(begun)}`)
    const rest = text.slice(begun.length)
    const separator = begun === '' && rest !== '' && seen !== '' ? STEP_SEPARATOR : ''
    seen += separator + rest
  }
  return seen
}

test.for(TURNS)('wherever a turn is cut off, going on gives the whole text and nothing twice: %j', (steps) => {
  for (const chars of [1, 3, 100]) {
    const pieces = piecesOf(steps, chars)
    for (let saved = 0; saved <= steps.length; saved++) {
      // The stream may be anywhere from its very start up to the end of the step that was being made.
      const sent = pieces.slice(0, saved + 1).flat()
      for (let count = 0; count <= sent.length; count++) {
        const streamed = sent.slice(0, count).join('')
        expect(resume(steps, steps.slice(0, saved), streamed), `${saved} saved, streamed ${streamed}`).toBe(
          joinSteps(steps),
        )
      }
    }
  }
})

test('steps without text leave no separator behind', () => {
  expect(joinSteps(['', 'a', '', 'b', ''])).toBe('a\n\nb')
  expect(joinSteps(['', ''])).toBe('')
})
