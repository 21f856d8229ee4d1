/** Every provider of models that the gateway can speak for; also the word before the slash in `provider/model`. */
export type ProviderId = 'anthropic' | 'openai' | 'openai-compatible' | 'google' | 'demo'

/** Header names in lower case. A list is one value per entry. */
export type Headers = Record<string, string>

/**
 * A provider of models: what a worker may ask of it, and how the gateway signs the question. Data and pure functions;
 * `proxy.ts` does the input and output. Adding one: a file, a line in `index.ts`, a folder of fixtures.
 */
export interface ModelProvider {
  id: ProviderId
  /** Model of an agent that names only the provider; null where servers have nothing in common. */
  defaultModel: string | null
  /** Environment variables that switch it on, in the words of docs/operations.md; null where it needs none. */
  variables: { apiKey: string; baseUrl: string } | null
  /** Without a key it can do nothing. Local servers often have none. */
  keyRequired: boolean
  /** Request headers that a worker may send upstream. Its own credentials are never among them. */
  requestHeaders: readonly string[]
  /** Query parameters that a worker may send upstream, by name and value. */
  query: Readonly<Record<string, string>>
  /** Response headers that reach the worker. */
  responseHeaders: readonly string[]
  /** Adds the real credential to headers that already passed the list. Returns a new object. */
  authorize(headers: Headers, apiKey: string | undefined): Headers
  /** Whether this is an endpoint that the provider's SDK calls to answer a prompt. `path` has no query. */
  allowed(method: string, path: string): boolean
  /** Answers inside the gateway, without a network. Its presence is what makes a provider local. */
  answer?(call: LocalCall): LocalAnswer
}

/** What the operator configured for one provider. */
export interface ProviderSettings {
  baseUrl?: string | undefined
  apiKey?: string | undefined
}

/** What a page and readiness show of one provider. */
export interface ModelStatus {
  provider: ProviderId
  /** What it needs is configured. Says nothing about whether the vendor answers. */
  available: boolean
  defaultModel: string | null
  /** The environment variable that would switch it on; null when it is available. */
  missingVariable: string | null
}

/** A call to a provider that answers by itself. */
export interface LocalCall {
  body: Uint8Array
  /** Fires when nobody waits for the answer any more; the answer's body must then end at once. */
  signal: AbortSignal
  /** The user message that asks for the rest of an answer that was cut off. */
  continueNote: string
}

/** What a local provider says. A body that throws cuts the connection in mid-air. */
export interface LocalAnswer {
  status: number
  headers: Headers
  body: AsyncIterable<string>
}

/** What every SDK sends and every vendor understands. `accept-encoding` is ours: workers do not decompress. */
export const REQUEST_HEADERS = ['content-type', 'content-length', 'accept', 'user-agent'] as const

/**
 * What the SDKs read, and the ids that a vendor's support asks for. No cookies, nothing about the connection,
 * no `location`: a worker's own HTTP client must not follow what the gateway would not.
 */
export const RESPONSE_HEADERS = [
  'content-type',
  'content-encoding',
  'cache-control',
  'retry-after',
  'retry-after-ms',
  'request-id',
  'x-request-id',
] as const

/**
 * An error body from which each of the SDKs reads its message: Anthropic wants the outer `type`, Google a numeric
 * `code` and a `status`, OpenAI `message` and `type`.
 */
export function errorBody(status: number, type: string, message: string): string {
  return JSON.stringify({ type: 'error', error: { type, message, code: status, status: type } })
}

/** Copies the headers whose names are listed. Several values of one name are joined with a comma. */
export function pickHeaders(headers: Record<string, string | string[] | undefined>, names: readonly string[]): Headers {
  const picked: Headers = {}
  for (const name of names) {
    const value = headers[name]
    if (value !== undefined) picked[name] = Array.isArray(value) ? value.join(', ') : value
  }
  return picked
}
