import { type ModelProvider, REQUEST_HEADERS, RESPONSE_HEADERS } from './contract.ts'

/** OpenAI's responses and chat completions: https://platform.openai.com/docs/api-reference/responses */
export const openai: ModelProvider = {
  id: 'openai',
  defaultModel: 'gpt-5-mini',
  variables: { apiKey: 'OPENAI_API_KEY', baseUrl: 'OPENAI_BASE_URL' },
  keyRequired: true,
  requestHeaders: REQUEST_HEADERS,
  query: {},
  responseHeaders: RESPONSE_HEADERS,
  authorize: (headers, apiKey) => ({ ...headers, authorization: `Bearer ${apiKey ?? ''}` }),
  allowed: (method, path) => method === 'POST' && (path === '/responses' || path === '/chat/completions'),
}
