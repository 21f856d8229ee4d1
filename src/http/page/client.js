// The public API as this page uses it: JSON calls, and one event stream that survives a broken connection.

/** The server says something at least every 15 s; after this much silence the connection is dead. */
const SILENCE_MS = 45_000
const RETRY_MS_MAX = 15_000

/** What the API refused, with its stable code; or, with status 0, that it could not be reached. */
export class ApiError extends Error {
  constructor(message, { status, code, retryAfterMs }) {
    super(message)
    this.status = status
    this.code = code
    this.retryAfterMs = retryAfterMs
  }
}

/** Calls `api/v1/…` and resolves with the JSON answer. Throws ApiError. */
export async function call(path, { token, body, method = body ? 'POST' : 'GET' }) {
  const headers = { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) }
  const response = await reach(path, { method, headers, body: body && JSON.stringify(body) })
  if (!response.ok) throw await refusal(response)
  return response.json()
}

/** An id that no one can guess; `crypto.randomUUID` is missing on plain-http pages off this machine. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/**
 * Follows an event stream until `signal` aborts, and comes back with Last-Event-ID whenever it breaks, so that each
 * numbered event is delivered once and in order. Throws ApiError when the server refuses the stream for good.
 * `on.event(name, data)`, `on.lost()`.
 */
export async function follow(path, { token, signal, on }) {
  const place = { lastId: '', retryMs: 1_000, failures: 0 }
  while (!signal.aborted) {
    try {
      await followOnce(path, { token, signal, on, place })
    } catch (error) {
      if (signal.aborted) return
      if (error.status >= 400 && error.status < 500 && error.status !== 429) throw error
      if (error.retryAfterMs) place.retryMs = error.retryAfterMs
    }
    if (signal.aborted) return
    place.failures++
    if (place.failures > 1) on.lost()
    const ms = Math.min(RETRY_MS_MAX, place.retryMs * 2 ** (place.failures - 1))
    await pause(ms * (0.5 + Math.random() / 2), signal)
  }
}

async function followOnce(path, { token, signal, on, place }) {
  const attempt = new AbortController()
  const abort = () => attempt.abort()
  signal.addEventListener('abort', abort)
  let watchdog = setTimeout(abort, SILENCE_MS)
  try {
    const headers = { authorization: `Bearer ${token}`, accept: 'text/event-stream' }
    if (place.lastId) headers['last-event-id'] = place.lastId
    const response = await reach(path, { headers, signal: attempt.signal, cache: 'no-store' })
    if (!response.ok) throw await refusal(response)
    for await (const message of readMessages(response.body)) {
      clearTimeout(watchdog)
      watchdog = setTimeout(abort, SILENCE_MS)
      place.failures = 0
      if (message.retry) place.retryMs = message.retry
      if (message.id) place.lastId = message.id
      if (message.event) on.event(message.event, JSON.parse(message.data))
      if (signal.aborted) return
    }
  } finally {
    clearTimeout(watchdog)
    signal.removeEventListener('abort', abort)
    attempt.abort()
  }
}

/** Splits an event stream into its messages. https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream */
export async function* readMessages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  let message = {}
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const lines = (rest + value).split('\n')
    rest = lines.pop()
    for (const line of lines) {
      if (line === '' || line === '\r') {
        yield message
        message = {}
      } else readField(message, line)
    }
  }
}

function readField(message, line) {
  const [, name, value] = /^([^:]*):? ?(.*?)\r?$/.exec(line)
  if (name === 'data') message.data = message.data === undefined ? value : `${message.data}\n${value}`
  else if (name === 'event') message.event = value
  else if (name === 'id') message.id = value
  else if (name === 'retry') message.retry = Number(value)
}

async function reach(path, options) {
  try {
    return await fetch(new URL(`api/v1/${path}`, document.baseURI), options)
  } catch (error) {
    if (options.signal?.aborted) throw error
    throw new ApiError('The gateway cannot be reached', { status: 0, code: 'unreachable' })
  }
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}))
  const seconds = Number(response.headers.get('retry-after'))
  return new ApiError(body.error ?? `The gateway answered ${response.status}`, {
    status: response.status,
    code: body.code ?? 'unknown',
    retryAfterMs: seconds > 0 ? seconds * 1000 : undefined,
  })
}

/** Resolves after `ms`, at once when the network is back, or when `signal` aborts. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      removeEventListener('online', done)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    addEventListener('online', done)
    signal?.addEventListener('abort', done)
  })
}
