/** HTTP errors that the model can be asked for, with the sentence that comes along. */
export const FAULTS: Readonly<Record<number, string>> = {
  400: 'The demo model was asked to refuse this request.',
  401: 'The demo model was asked to refuse its key.',
  429: 'The demo model was asked to say that too much was asked of it.',
  500: 'The demo model was asked to fail.',
}

interface Directive {
  /** What follows the word: nothing, a whole number up to `max`, one of `FAULTS`, or text up to the next directive. */
  argument: 'none' | 'number' | 'fault' | 'text'
  max?: number
  about: string
}

/**
 * Words in the last user message that steer the built-in model, for tests and smoke checks. They combine, in any
 * order, anywhere in the message: `/words 500 /delay 20 /cut 100`. A word without its argument is ordinary text;
 * a number above the bound counts as the bound.
 *
 * `/tool` and `/tools` need a tool named `current_time`. `/cut` leaves the continuation of a cut answer alone, so
 * that a turn which resumes can end. A model that fails once and then works cannot be had: it keeps no state.
 */
export const DIRECTIVES = {
  echo: { argument: 'text', about: 'answers with TEXT' },
  words: { argument: 'number', max: 100_000, about: 'answers with N numbered words: w1 w2 …' },
  history: { argument: 'none', about: 'lists role and first words of each message that the model was given' },
  tool: { argument: 'none', about: 'calls the tool current_time, then answers with its result' },
  tools: { argument: 'number', max: 100, about: 'the same with N calls, one after the other' },
  delay: { argument: 'number', max: 60_000, about: 'waits N milliseconds before each word but the first' },
  think: { argument: 'number', max: 600_000, about: 'is silent for N milliseconds before the first word' },
  hang: { argument: 'none', about: 'says nothing until the call is aborted' },
  cut: { argument: 'number', max: 100_000, about: 'cuts the connection after N words' },
  fail: { argument: 'fault', about: 'answers with that HTTP error: 400, 401, 429 (with retry-after) or 500' },
} as const satisfies Record<string, Directive>

type Name = keyof typeof DIRECTIVES

/** What the last user message asks for. Absent: not asked. */
export type Directives = { echo?: string } & { [name in Exclude<Name, 'echo'>]?: number }

interface Mark {
  name: Name
  start: number
  end: number
  value: number
}

/** Finds the directives in a message. Of two with one name the later counts. */
export function parseDirectives(text: string): Directives {
  const marks = [...text.matchAll(/(?<!\S)\/([a-z]+)(?!\S)/g)].flatMap((match) => readMark(text, match) ?? [])
  const found: Directives = {}
  for (const [at, mark] of marks.entries()) {
    if (mark.name === 'echo') found.echo = text.slice(mark.end, marks[at + 1]?.start).trim()
    else found[mark.name] = mark.value
  }
  return found
}

function readMark(text: string, match: RegExpExecArray): Mark | undefined {
  const name = match[1] as Name
  if (!Object.hasOwn(DIRECTIVES, name)) return undefined
  const directive: Directive = DIRECTIVES[name]
  const start = match.index
  const end = start + match[0].length
  if (directive.argument === 'text' || directive.argument === 'none') return { name, start, end, value: 1 }
  const digits = /^\s+(\d{1,9})(?!\S)/.exec(text.slice(end, end + 40))
  if (digits === null) return undefined
  const value = Number(digits[1])
  if (directive.argument === 'fault' && FAULTS[value] === undefined) return undefined
  return { name, start, end: end + digits[0].length, value: Math.min(value, directive.max ?? value) }
}
