import { setImmediate, setTimeout } from 'node:timers/promises'
import { sha256 } from '../../lib/ids.ts'
import { errorBody, type LocalAnswer, type LocalCall, type ModelProvider, REQUEST_HEADERS } from './contract.ts'
import { composeTurn, lastUserText, type Turn } from './demo/compose.ts'
import { ChatRequest, readConversation } from './demo/conversation.ts'
import { type Directives, FAULTS, parseDirectives } from './demo/directives.ts'
import * as wire from './demo/wire.ts'

/** About as fast as a quick hosted model, and quick enough for tests. */
const WORD_MS = 12
/** Longer than any turn may take; a call that nobody aborts still ends. */
const HANG_MS_MAX = 3_600_000
/** With `/delay 0` the event loop gets a turn this often. */
const WORDS_AT_ONCE = 100
const RETRY_AFTER_SECONDS = 1

/**
 * The built-in model: OpenAI's chat completions, answered inside the gateway, for a first start without any key, for
 * tests and for smoke checks. Its answer depends on the messages alone. What it can be told to do is in
 * `demo/directives.ts`. It knows no output limit.
 */
export const demo: ModelProvider = {
  id: 'demo',
  defaultModel: 'demo',
  variables: null,
  keyRequired: false,
  requestHeaders: REQUEST_HEADERS,
  query: {},
  responseHeaders: ['content-type', 'cache-control', 'retry-after'],
  authorize: (headers) => ({ ...headers }),
  allowed: (method, path) => method === 'POST' && path === '/chat/completions',
  answer: answerCall,
}

interface Script {
  envelope: wire.Envelope
  turn: Turn
  usage: wire.TokenCounts
  streamsUsage: boolean
  pace: { thinkMs: number; wordMs: number; cutAfter: number }
}

function answerCall({ body, continueNote, signal }: LocalCall): LocalAnswer {
  const request = readRequest(body)
  if (request === undefined) return refusal(400, 'The body is not a chat completion request.')
  const conversation = readConversation(request, continueNote)
  const directives = parseDirectives(lastUserText(conversation.said) ?? '')
  if (directives.fail !== undefined) return refusal(directives.fail, FAULTS[directives.fail]!)
  const turn = composeTurn(conversation, directives)
  const script: Script = {
    envelope: envelopeOf(request),
    turn,
    usage: countTokens(conversation.said, turn),
    streamsUsage: request.stream_options?.include_usage === true,
    pace: paceOf(directives, conversation.prefix !== ''),
  }
  if (request.stream) return { status: 200, headers: wire.STREAM_HEADERS, body: streamAnswer(script, signal) }
  return { status: 200, headers: wire.JSON_HEADERS, body: wholeAnswer(script, signal) }
}

/** Silence, words one by one, the end. A throw in here cuts the connection; so does the signal. */
async function* streamAnswer({ envelope, turn, usage, streamsUsage, pace }: Script, signal: AbortSignal) {
  await setTimeout(pace.thinkMs, undefined, { signal })
  yield wire.chunkEvent(envelope, { role: 'assistant', content: '' })
  if (turn.kind === 'tool') yield wire.chunkEvent(envelope, { tool_calls: [{ index: 0, ...wire.toolCall(turn) }] })
  else yield* streamWords({ envelope, words: turn.words, pace }, signal)
  yield wire.chunkEvent(envelope, {}, wire.finishReasonOf(turn))
  if (streamsUsage) yield wire.usageEvent(envelope, usage)
  yield wire.DONE_EVENT
}

async function* streamWords(
  { envelope, words, pace }: { envelope: wire.Envelope; words: string[]; pace: Script['pace'] },
  signal: AbortSignal,
) {
  for (const [at, word] of words.entries()) {
    if (at > 0 && pace.wordMs > 0) await setTimeout(pace.wordMs, undefined, { signal })
    else if (at % WORDS_AT_ONCE === 0) await setImmediate(undefined, { signal })
    if (at >= pace.cutAfter) break
    yield wire.chunkEvent(envelope, { content: word })
  }
  if (pace.cutAfter !== Number.POSITIVE_INFINITY) await cutHere(pace, signal)
}

/** One more pause lets the words before it arrive; then the throw cuts the connection. */
async function cutHere(pace: Script['pace'], signal: AbortSignal): Promise<never> {
  await setTimeout(Math.max(WORD_MS, pace.wordMs), undefined, { signal })
  throw new Error('the demo model was asked to cut the connection')
}

async function* wholeAnswer({ envelope, turn, usage, pace }: Script, signal: AbortSignal) {
  await setTimeout(pace.thinkMs, undefined, { signal })
  if (pace.cutAfter !== Number.POSITIVE_INFINITY) await cutHere(pace, signal)
  yield wire.completionBody(envelope, turn, usage)
}

function paceOf(directives: Directives, continues: boolean): Script['pace'] {
  return {
    thinkMs: directives.hang !== undefined ? HANG_MS_MAX : (directives.think ?? 0),
    wordMs: directives.delay ?? WORD_MS,
    cutAfter: continues ? Number.POSITIVE_INFINITY : (directives.cut ?? Number.POSITIVE_INFINITY),
  }
}

function readRequest(body: Uint8Array): ChatRequest | undefined {
  try {
    return ChatRequest.parse(JSON.parse(Buffer.from(body).toString('utf8')))
  } catch {
    return undefined
  }
}

function envelopeOf({ model, messages }: ChatRequest): wire.Envelope {
  const id = `chatcmpl-demo-${sha256(JSON.stringify(messages)).slice(0, 24)}`
  return { id, created: Math.floor(Date.now() / 1000), model }
}

/** Four characters or one word a token: near enough for counters that nobody bills by. */
function countTokens(said: { text: string }[], turn: Turn): wire.TokenCounts {
  const prompt = Math.ceil(said.reduce((chars, message) => chars + message.text.length, 0) / 4)
  const completion = turn.kind === 'tool' ? 1 : turn.words.length
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
}

function refusal(status: number, message: string): LocalAnswer {
  const type = { 400: 'invalid_request', 401: 'unauthenticated', 429: 'rate_limited' }[status] ?? 'api_error'
  const headers = status === 429 ? { 'retry-after': String(RETRY_AFTER_SECONDS) } : {}
  return { status, headers: { ...wire.JSON_HEADERS, ...headers }, body: once(errorBody(status, type, message)) }
}

async function* once(text: string) {
  yield text
}
