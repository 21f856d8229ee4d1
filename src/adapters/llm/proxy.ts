import { once } from 'node:events'
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2'
import type { Agent } from 'undici'
import { AppError, errorLine } from '../../lib/errors.ts'
import type { Logger } from '../../lib/logger.ts'
import { createRedactions, withoutValue } from '../../lib/redactions.ts'
import { type ModelProvider, type ModelStatus, type ProviderSettings, pickHeaders } from './contract.ts'
import { modelProviders } from './index.ts'
import { cutStream, Refusal, sendRefusal } from './refusal.ts'
import { checkAnnouncedLength, discardRest, readBody } from './request-body.ts'
import { statusOf, unavailableMessage } from './resolve-model.ts'
import { askUpstream, createUpstream } from './upstream.ts'

/** One request of a worker, as the gateway understood its address and its identity. */
export interface ModelCall {
  provider: string
  /** What follows the provider, with its query if there is one: `/messages`. */
  path: string
  /** `about` are its ids for the log. */
  run: { runId: string; fence: number; provider: string; about?: Record<string, string> }
  /** Trace context that the worker sent along; it is not passed on to the provider. */
  traceparent?: string | undefined
}

export interface ModelProxyDeps {
  log: Logger
  providers: { readonly [id: string]: ProviderSettings }
  /**
   * The key that the run's agent or organization has for its provider; undefined when the one in `providers` counts.
   * @throws AppError when the run may make no call.
   */
  ownKey?(run: ModelCall['run']): Promise<string | undefined>
  /** Told of each call; what it returns is told how that ended. Neither may throw. */
  watch?(call: ModelCall): (end: CallEnd) => void
  /** The user message by which a worker asks for the rest of an answer: `CONTINUE_NOTE` of the worker protocol. */
  continueNote: string
}

export interface CallEnd {
  /** What the worker was answered with. */
  status: number
  /** The worker, or the gateway, broke it off. */
  aborted: boolean
  /** What went wrong, without a secret; undefined when the answer went through whole. */
  error: string | undefined
}

/**
 * Serves one model call of a worker: adds the real credential, streams question and answer. Never throws; the
 * response always ends. An abort of the worker's stream closes the upstream call at once.
 */
export interface ModelProxy {
  (req: Http2ServerRequest, res: Http2ServerResponse, call: ModelCall): void
  /** Every provider, configured or not, in the order for display. `own` are those that the asker has a key for. */
  models(own?: ReadonlySet<string>): ModelStatus[]
  /** Cuts the calls that are under way and closes all connections; later calls are refused. May be called twice. */
  close(): Promise<void>
}

/**
 * Makes the way out for model calls. A run reaches the provider it was started with and no other, and of that only
 * the endpoints, query parameters and headers on its lists. Keys, bodies and queries are never logged.
 */
export function createModelProxy(deps: ModelProxyDeps): ModelProxy {
  const agent = createUpstream()
  const open = new Map<AbortController, Promise<void>>()
  let closed: Promise<void> | undefined

  function handle(req: Http2ServerRequest, res: Http2ServerResponse, call: ModelCall): void {
    const controller = new AbortController()
    // `writableFinished` is also true of an aborted HTTP/2 response; `writableEnded` says whether we ended it.
    res.on('close', () => {
      if (!res.writableEnded) controller.abort()
    })
    const exchange = { req, res, call, signal: controller.signal, path: undefined, bytes: 0, draining: !!closed }
    const done = serveCall(deps, agent, exchange).finally(() => open.delete(controller))
    open.set(controller, done)
  }

  function models(own?: ReadonlySet<string>): ModelStatus[] {
    return modelProviders.map((provider) => {
      const settings = deps.providers[provider.id]
      return statusOf(provider, own?.has(provider.id) ? { ...settings, apiKey: 'own' } : settings)
    })
  }

  async function closeAll(): Promise<void> {
    const ends = [...open.values()]
    for (const controller of open.keys()) controller.abort()
    await Promise.all(ends)
    await agent.destroy()
  }

  function close(): Promise<void> {
    closed ??= closeAll()
    return closed
  }

  return Object.assign(handle, { models, close })
}

interface Exchange {
  readonly req: Http2ServerRequest
  readonly res: Http2ServerResponse
  readonly call: ModelCall
  /** The worker went away, or the proxy closes. */
  readonly signal: AbortSignal
  readonly draining: boolean
  /** Set once it is known to be an endpoint on the list; nothing else is fit for a log. */
  path: string | undefined
  /** Of the answer, so far. */
  bytes: number
}

async function serveCall(deps: ModelProxyDeps, agent: Agent, exchange: Exchange): Promise<void> {
  const { call, req, res, signal } = exchange
  const ended = deps.watch?.(call)
  const startedAt = performance.now()
  const { about, ...run } = call.run
  const line: Record<string, unknown> = { ...about, ...run }
  let level: 'debug' | 'warn' | 'error' = 'debug'
  try {
    await answerCall(deps, agent, exchange)
  } catch (error) {
    if (signal.aborted) line.aborted = true
    else level = endInError(res, error, line)
    if (!res.writableEnded) cutStream(res)
  }
  discardRest(req)
  const ms = Math.round(performance.now() - startedAt)
  ended?.({ status: res.statusCode, aborted: signal.aborted, error: line.error as string | undefined })
  deps.log[level]({ ...line, path: exchange.path, status: res.statusCode, ms, bytes: exchange.bytes }, 'model call')
}

/** Tells the worker of an error as far as that is still possible, and says at which level the log should. */
function endInError(res: Http2ServerResponse, error: unknown, line: Record<string, unknown>) {
  const cause = error instanceof Refusal ? error.cause : error
  if (cause !== undefined) line.error = errorLine(cause)
  if (error instanceof Refusal) {
    sendRefusal(res, error)
    return error.status >= 500 ? 'warn' : 'debug'
  }
  if (res.headersSent) return 'warn'
  sendRefusal(res, new Refusal(500, 'internal', 'The gateway could not make this model call.'))
  return 'error'
}

async function answerCall(deps: ModelProxyDeps, agent: Agent, exchange: Exchange): Promise<void> {
  const { req, signal } = exchange
  const { provider, query } = admitCall(exchange)
  const settings = await settingsFor(deps, provider, exchange.call.run)
  const status = statusOf(provider, settings)
  if (!status.available) throw new Refusal(503, 'model_unavailable', unavailableMessage(status))
  checkAnnouncedLength(req)
  if (provider.answer) {
    const body = await readBody(req)
    return respond(provider.answer({ body, signal, continueNote: deps.continueNote }), exchange)
  }
  const answer = await askUpstream(agent, { provider, settings, path: exchange.path ?? '', query, req, signal })
  // A provider may quote what it was sent; workers, and all who hear from them, see no key.
  const headers = withoutKey(pickHeaders(answer.headers, provider.responseHeaders), settings.apiKey)
  const body = withoutValue(answer.body, settings.apiKey)
  await respond({ status: answer.statusCode, headers, body }, exchange)
}

async function settingsFor(deps: ModelProxyDeps, provider: ModelProvider, run: ModelCall['run']) {
  const settings = deps.providers[provider.id] ?? {}
  if (provider.variables === null || !deps.ownKey) return settings
  try {
    return { ...settings, apiKey: (await deps.ownKey(run)) ?? settings.apiKey }
  } catch (error) {
    if (!(error instanceof AppError)) throw error
    throw new Refusal(error.code === 'forbidden' ? 403 : 500, error.code, error.message, { cause: error })
  }
}

function withoutKey(headers: Record<string, string>, apiKey: string | undefined): Record<string, string> {
  const { clean } = createRedactions([apiKey])
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, clean(value)]))
}

/** Decides whether the run may make this call at all. */
function admitCall(exchange: Exchange): { provider: ModelProvider; query: URLSearchParams } {
  const { req, call } = exchange
  if (exchange.draining) throw new Refusal(503, 'draining', 'The gateway is shutting down.')
  const provider = modelProviders.find(({ id }) => id === call.run.provider)
  if (call.provider !== call.run.provider || provider === undefined) {
    throw new Refusal(403, 'forbidden', 'This run may only call the model provider that it was started with.')
  }
  const [name = '', query] = call.path.split('?', 2)
  const path = name.startsWith('/') ? name : `/${name}`
  if (!provider.allowed(req.method, path)) {
    throw new Refusal(404, 'not_found', `The gateway does not pass on this endpoint of ${provider.id}.`)
  }
  exchange.path = path
  return { provider, query: new URLSearchParams(query) }
}

interface Answer {
  status: number
  headers: Record<string, string>
  body: AsyncIterable<string | Uint8Array>
}

/** Passes an answer on as fast as the worker reads it. The headers go at once: silence after them is the model's. */
async function respond({ status, headers, body }: Answer, exchange: Exchange): Promise<void> {
  const { res, signal } = exchange
  res.writeHead(status, headers)
  for await (const chunk of body) {
    exchange.bytes += Buffer.byteLength(chunk)
    if (!res.write(chunk)) await once(res, 'drain', { signal })
  }
  res.end()
}
