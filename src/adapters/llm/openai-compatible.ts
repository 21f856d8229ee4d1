import { type ModelProvider, REQUEST_HEADERS, RESPONSE_HEADERS } from './contract.ts'

/**
 * Any server that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp, LiteLLM, hosted routers. It is switched
 * on by its base URL; many local servers have no key and refuse an empty bearer, so then none is sent.
 */
export const openaiCompatible: ModelProvider = {
  id: 'openai-compatible',
  defaultModel: null,
  variables: { apiKey: 'OPENAI_COMPATIBLE_API_KEY', baseUrl: 'OPENAI_COMPATIBLE_BASE_URL' },
  keyRequired: false,
  requestHeaders: REQUEST_HEADERS,
  query: {},
  responseHeaders: RESPONSE_HEADERS,
  authorize: (headers, apiKey) => (apiKey ? { ...headers, authorization: `Bearer ${apiKey}` } : { ...headers }),
  allowed: (method, path) => method === 'POST' && path === '/chat/completions',
}
