import type { Http2ServerRequest } from 'node:http2'
import { Readable } from 'node:stream'
import { Agent, type Dispatcher } from 'undici'
import { type ModelProvider, type ProviderSettings, pickHeaders } from './contract.ts'
import { Refusal, upstreamRefusal } from './refusal.ts'
import { boundedBody } from './request-body.ts'

/** A thinking model that does not stream says nothing until it is done. */
const HEADERS_TIMEOUT_MS = 600_000
/** Silence within an answer; a streaming vendor sends pings far more often. */
const BODY_TIMEOUT_MS = 300_000
const CONNECT_TIMEOUT_MS = 10_000
/** Long enough to keep the connection over a tool call between two steps of a turn. */
const KEEP_ALIVE_MS = 30_000
/** Sockets to one origin. A call more waits for a free one; how many can wait is bounded by the running turns. */
const CONNECTIONS_MAX = 1024

/**
 * The connections to all providers. HTTP/1.1 on purpose: a call has its socket to itself, so that a cancel surely
 * closes it and no answer waits behind the packets of another.
 */
export function createUpstream(): Agent {
  return new Agent({
    connections: CONNECTIONS_MAX,
    allowH2: false,
    connect: { timeout: CONNECT_TIMEOUT_MS },
    headersTimeout: HEADERS_TIMEOUT_MS,
    bodyTimeout: BODY_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
  })
}

export interface Question {
  provider: ModelProvider
  settings: ProviderSettings
  /** On the provider's list. */
  path: string
  query: URLSearchParams
  req: Http2ServerRequest
  signal: AbortSignal
}

/**
 * Asks a provider over the network, with the real credential and only the headers and query parameters on its lists.
 * Redirects are not followed: the key would go along.
 *
 * @throws Refusal for a body that is too large and an upstream that cannot be reached, is silent or redirects.
 */
export async function askUpstream(agent: Agent, question: Question): Promise<Dispatcher.ResponseData> {
  const { provider, req, signal } = question
  const headers = { ...pickHeaders(req.headers, provider.requestHeaders), 'accept-encoding': 'identity' }
  const variable = provider.variables?.baseUrl ?? ''
  const answer = await agent
    .request({
      ...addressOf(question),
      method: 'POST',
      headers: provider.authorize(headers, question.settings.apiKey),
      body: Readable.from(boundedBody(req), { objectMode: false }),
      signal,
    })
    .catch((error: unknown) => {
      throw error instanceof Refusal || signal.aborted ? error : upstreamRefusal(error, variable)
    })
  if (answer.statusCode < 300 || answer.statusCode >= 400) return answer
  answer.body.on('error', () => {}).destroy()
  const message = `The model provider answered with a redirect, which is not followed. Check ${variable}.`
  throw new Refusal(502, 'upstream_redirect', message)
}

/** Where the question goes. A query in the configured base URL stays: some hosts carry their API version there. */
function addressOf({ settings, provider, path, query }: Question): { origin: string; path: string } {
  const url = new URL(settings.baseUrl ?? '')
  url.pathname = `${url.pathname.replace(/\/+$/, '')}${path}`
  for (const [name, value] of Object.entries(provider.query)) {
    if (query.get(name) === value) url.searchParams.set(name, value)
  }
  return { origin: url.origin, path: `${url.pathname}${url.search}` }
}
