import { openGatewayDatabase } from '../app.ts'
import type { Config } from '../config.ts'
import type { Sql } from '../db/client.ts'
import { createTemporaryKey, revokeTemporaryKey } from '../domain/keys/temporary.ts'
import { createLogger } from '../lib/logger.ts'
import { sleep } from '../lib/sleep.ts'

/** Longer than a cold worker needs on a machine that is busy, shorter than what waits for this command. */
const TURN_MS_MAX = 120_000
/** The key ends by itself when this command is killed before it could revoke it. */
const KEY_MS = 600_000
const WORDS = 'the smoke test passes'

/**
 * `lobu smoke <url>`: takes one real turn with the built-in model at the gateway behind `url`, over HTTP as a client has
 * it: opens a conversation, follows its stream, sends a message, and compares the answer. The key for that is made in
 * the database of this environment, which revokes it in the end. A line per step; exit code 0 when the answer came whole.
 */
export async function runSmoke(config: Config, url: string): Promise<number> {
  if (!URL.canParse(url)) throw new Error(`"${url}" is no address of a gateway, such as http://lobu-app:8787.`)
  const db = await openGatewayDatabase(config, createLogger({ ...config.log, level: 'warn', stream: process.stderr }))
  try {
    return await smoke(db.sql, url)
  } finally {
    await db.close()
  }
}

async function smoke(sql: Sql, url: string): Promise<number> {
  const key = await createTemporaryKey(sql, { name: 'smoke', lastsMs: KEY_MS })
  const signal = AbortSignal.timeout(TURN_MS_MAX)
  const ask = (path: string, options: Ask) => askGateway(new URL(path, url), { token: key.token, signal, ...options })
  try {
    await untilReady(new URL('/health/ready', url), signal)
    say('the gateway is ready')
    const answer = await takeTurn(ask)
    if (answer !== WORDS) throw new Error(`The answer is "${answer}" and should be "${WORDS}".`)
    say('the answer came whole')
    return 0
  } catch (error) {
    process.stderr.write(`The turn at ${url} failed: ${reasonOf(error)}\n`)
    return 1
  } finally {
    // Of no use to anybody else, and gone by itself soon.
    const revoked = revokeTemporaryKey(sql, key)
    await revoked.catch((error) => process.stderr.write(`The key was not revoked: ${reasonOf(error)}\n`))
  }
}

interface Ask {
  method: 'GET' | 'POST' | 'DELETE'
  body?: unknown
}

/** Resolves with the final text. The conversation is ended again. */
async function takeTurn(ask: (path: string, options: Ask) => Promise<Response>): Promise<string> {
  const opened = await ask('/api/v1/agents', { method: 'POST', body: { model: 'demo/demo', forceNew: true } })
  const { conversationId } = (await opened.json()) as { conversationId: string }
  const path = `/api/v1/agents/${conversationId}`
  say('a conversation is open')
  // Before the message: a stream that opens when the turn has ended does not show it again.
  const stream = await ask(`${path}/events`, { method: 'GET' })
  await ask(`${path}/messages`, { method: 'POST', body: { content: `/echo ${WORDS}` } })
  say('a message is accepted')
  const end = await readUntilComplete(stream)
  await ask(path, { method: 'DELETE' })
  if (end.status !== 'completed') throw new Error(`The turn ended as ${end.status}.`)
  return end.finalText ?? ''
}

/** Throws for a status that is no success, with what the gateway says about it. */
async function askGateway(
  url: URL,
  { method, body, token, signal }: Ask & { token: string; signal: AbortSignal },
): Promise<Response> {
  const response = await fetch(url, {
    method,
    signal,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  if (response.ok) return response
  throw new Error(`${method} ${url.pathname} answers ${response.status}: ${(await response.text()).slice(0, 300)}`)
}

/** Behind a Service there are replicas that are ready, once there is one at all. */
async function untilReady(url: URL, signal: AbortSignal) {
  for (;;) {
    const response = await fetch(url, { signal }).catch((error) => {
      if (signal.aborted) throw error
      return undefined
    })
    const text = await response?.text()
    if (response?.ok) return
    process.stderr.write(`not ready yet: ${text?.slice(0, 500) ?? 'no connection'}\n`)
    await sleep(2_000, signal)
  }
}

async function readUntilComplete({ body }: Response): Promise<{ status: string; finalText?: string }> {
  const decoder = new TextDecoder()
  let text = ''
  for await (const chunk of body!) {
    text += decoder.decode(chunk, { stream: true })
    const data = /^event: complete\ndata: (.*)\n\n/m.exec(text)?.[1]
    if (data !== undefined) return JSON.parse(data)
  }
  throw new Error('The stream ended before the turn did.')
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (error.name === 'TimeoutError') return `it took longer than ${TURN_MS_MAX / 1000} s`
  return error.cause instanceof Error ? `${error.message} (${error.cause.message})` : error.message
}

function say(text: string) {
  process.stdout.write(`${text}\n`)
}
