import type { Conversation, Said } from './conversation.ts'
import type { Directives } from './directives.ts'

/** The tool that the built-in model knows how to call. */
export const DEMO_TOOL = 'current_time'

const QUOTE_CHARS = 120
const HISTORY_LINES = 1000
const HISTORY_WORDS = 8

/** What the model does with a conversation: calls its tool, or says words whose concatenation is the text. */
export type Turn = { kind: 'tool'; callId: string; name: string } | { kind: 'text'; words: string[] }

/**
 * Decides the answer. Pure: the same conversation always gives the same one. With a `prefix` it is what comes after
 * the prefix; a prefix that this model would never have written (another one began) is answered in full.
 */
export function composeTurn(conversation: Conversation, directives: Directives): Turn {
  const results = resultsOfThisTurn(conversation.said)
  const rounds = directives.tools ?? directives.tool ?? 0
  if (results.length < rounds && conversation.tools.includes(DEMO_TOOL)) {
    return { kind: 'tool', callId: `call_demo_${conversation.said.length}`, name: DEMO_TOOL }
  }
  const whole = composeText(conversation, directives, { rounds, results })
  const rest = whole.startsWith(conversation.prefix) ? whole.slice(conversation.prefix.length) : whole
  return { kind: 'text', words: splitWords(rest) }
}

/** The last thing that the user said, or undefined. */
export function lastUserText(said: Said[]): string | undefined {
  return said.findLast((message) => message.role === 'user')?.text
}

function composeText(
  { said }: Conversation,
  directives: Directives,
  tool: { rounds: number; results: string[] },
): string {
  const parts: string[] = []
  if (tool.rounds > 0) parts.push(tellResults(tool.results))
  if (directives.history !== undefined) parts.push(tellHistory(said))
  if (directives.echo !== undefined) parts.push(directives.echo)
  if (directives.words !== undefined) parts.push(countWords(directives.words))
  return parts.length > 0 ? parts.join('\n\n') : greet(said)
}

function greet(said: Said[]): string {
  const text = lastUserText(said)
  const quote = text?.trim() ? `You wrote: “${shorten(text)}”.` : 'You sent no text.'
  return [
    `${quote} This is turn ${countTurns(said)} of our conversation.`,
    "I am Lobu's built-in demo model: I only repeat what I was told, but everything around me is real.",
    'To talk to a real model, set ANTHROPIC_API_KEY, OPENAI_API_KEY, GOOGLE_GENERATIVE_AI_API_KEY',
    'or OPENAI_COMPATIBLE_BASE_URL with DEFAULT_MODEL, and restart the gateway.',
  ].join(' ')
}

/** User messages in a row are one turn. */
function countTurns(said: Said[]): number {
  return said.filter((message, at) => message.role === 'user' && said[at - 1]?.role !== 'user').length
}

function tellResults(results: string[]): string {
  if (results.length === 0) return `I was offered no tool named ${DEMO_TOOL}.`
  return results.map((result) => `The tool ${DEMO_TOOL} answered: ${shorten(result)}`).join('\n')
}

function tellHistory(said: Said[]): string {
  const skipped = Math.max(0, said.length - HISTORY_LINES)
  const lines = said.slice(skipped).map((message, at) => {
    const calls = message.calls.map((name) => `[calls ${name}]`)
    const words = shorten(message.text).split(' ', HISTORY_WORDS)
    return `${skipped + at + 1}. ${message.role}: ${[...calls, ...words].join(' ')}`.trimEnd()
  })
  return `I was given ${said.length} messages:\n${lines.join('\n')}`
}

function countWords(count: number): string {
  return Array.from({ length: count }, (_, at) => `w${at + 1}`).join(' ')
}

/** What tools answered since the user last spoke. */
function resultsOfThisTurn(said: Said[]): string[] {
  const asked = said.findLastIndex((message) => message.role === 'user')
  return said.slice(asked + 1).flatMap((message) => (message.role === 'tool' ? message.text : []))
}

/** One line of bounded length. The slice comes first: the text may be megabytes. */
function shorten(text: string): string {
  const line = text
    .slice(0, QUOTE_CHARS * 4)
    .replace(/\s+/g, ' ')
    .trim()
  return line.length > QUOTE_CHARS ? `${line.slice(0, QUOTE_CHARS).trimEnd()}…` : line
}

/** Words with the space before them, so that nothing is lost when they are joined. */
function splitWords(text: string): string[] {
  return text.match(/\s*\S+|\s+/g) ?? []
}
