import { type ModelProvider, REQUEST_HEADERS, RESPONSE_HEADERS } from './contract.ts'

/** The API's only dated version; requests without the header are refused: https://docs.anthropic.com/en/api/versioning */
const API_VERSION = '2023-06-01'

/** Anthropic's Messages API: https://docs.anthropic.com/en/api/messages */
export const anthropic: ModelProvider = {
  id: 'anthropic',
  defaultModel: 'claude-sonnet-4-5',
  variables: { apiKey: 'ANTHROPIC_API_KEY', baseUrl: 'ANTHROPIC_BASE_URL' },
  keyRequired: true,
  requestHeaders: [...REQUEST_HEADERS, 'anthropic-version', 'anthropic-beta'],
  query: {},
  responseHeaders: RESPONSE_HEADERS,
  authorize: (headers, apiKey) => ({ 'anthropic-version': API_VERSION, ...headers, 'x-api-key': apiKey ?? '' }),
  allowed: (method, path) => method === 'POST' && path === '/messages',
}
