import { type ModelProvider, REQUEST_HEADERS, RESPONSE_HEADERS } from './contract.ts'

/** One model id between fixed words: no slash, no percent sign, nothing that a server could read as another path. */
const GENERATE = /^\/models\/[A-Za-z0-9][\w.-]{0,127}:(streamGenerateContent|generateContent)$/

/**
 * Google's Gemini API: https://ai.google.dev/api/generate-content
 * The key goes into a header; the documented `?key=` is not passed on, because addresses end up in logs.
 */
export const google: ModelProvider = {
  id: 'google',
  defaultModel: 'gemini-2.5-flash',
  variables: { apiKey: 'GOOGLE_GENERATIVE_AI_API_KEY', baseUrl: 'GOOGLE_BASE_URL' },
  keyRequired: true,
  requestHeaders: REQUEST_HEADERS,
  query: { alt: 'sse' },
  responseHeaders: RESPONSE_HEADERS,
  authorize: (headers, apiKey) => ({ ...headers, 'x-goog-api-key': apiKey ?? '' }),
  allowed: (method, path) => method === 'POST' && GENERATE.test(path),
}
