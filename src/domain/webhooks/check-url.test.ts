import { expect, test } from 'vitest'
import { checkWebhookUrl } from './check-url.ts'

test.each([
  'http://127.0.0.1/',
  'http://2130706433/',
  'http://[::ffff:10.0.0.1]/',
  'http://169.254.169.254/latest/meta-data/',
  'http://localhost:8787/',
  'https://user:password@example.com/',
  'ftp://example.com/',
  'example.com',
])('%s is refused at once, without a word of it in the message', (url) => {
  const refused = expect(() => checkWebhookUrl(url, { allowedHosts: [] }))
  refused.toThrow(expect.objectContaining({ code: 'invalid_request', message: expect.not.stringContaining(url) }))
})

test.each([
  'https://example.com/hook?token=1',
  'http://example.com:8080/',
  'https://8.8.8.8/',
  'https://bücher.example/',
])('%s is taken', (url) => expect(checkWebhookUrl(url, { allowedHosts: [] })).toBeUndefined())

test('what the operator allows is taken', () => {
  expect(checkWebhookUrl('http://10.1.2.3:9000/', { allowedHosts: ['10.1.2.3:9000'] })).toBeUndefined()
})
