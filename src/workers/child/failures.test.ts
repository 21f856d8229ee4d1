import { APICallError } from 'ai'
import { describe, expect, it } from 'vitest'
import { describeFailure } from './failures.ts'

const call = (data: unknown, statusCode?: number) =>
  new APICallError({
    message: 'secret words',
    url: 'http://gateway/x',
    requestBodyValues: {},
    ...(statusCode ? { statusCode } : {}),
    data,
  })

describe('an error inside a stream', () => {
  it.each([
    [{ type: 'overloaded_error', message: 'x' }, 'model_overloaded'],
    [{ type: 'error', error: { type: 'rate_limit_error' } }, 'model_rate_limited'],
    [{ code: 'context_length_exceeded', type: 'invalid_request_error' }, 'model_bad_request'],
    [{ code: 429, status: 'RESOURCE_EXHAUSTED', message: 'x' }, 'model_rate_limited'],
    [Object.assign(new Error('x'), { statusCode: 529 }), 'model_overloaded'],
    [{ type: 'server_error' }, 'model_unavailable'],
    [call({ error: { code: 'insufficient_quota' } }, 200), 'model_rate_limited'],
    [new TypeError('terminated'), 'model_stream_cut'],
    [call(undefined), 'model_stream_cut'],
    [new DOMException('too long', 'TimeoutError'), 'model_timeout'],
  ])('%j is %s', (error, code) => {
    expect(describeFailure(error, { afterOutput: true }).code).toBe(code)
  })
})

it('a connection lost before any output is no cut stream', () => {
  expect(describeFailure(new TypeError('fetch failed')).code).toBe('model_unavailable')
  expect(describeFailure(call(undefined)).code).toBe('model_unavailable')
})

it('nothing of an unforeseen error is told', () => {
  for (const error of [new Error('key sk-123'), 'text', null, undefined, { a: 1 }]) {
    expect(JSON.stringify(describeFailure(error))).not.toMatch(/sk-123|text/)
  }
  expect(describeFailure(new Error('x'))).toMatchObject({ code: 'agent_failed', retryable: false })
})

it('a refusal tells its reason, but nothing that looks like a key, not even its beginning', () => {
  const refusal = (message: string) =>
    describeFailure(new APICallError({ message, url: 'http://gateway/x', requestBodyValues: {}, statusCode: 400 }))
      .message
  expect(refusal('no model sk-ant-0123456789 here')).toMatch(/: no model \[redacted\] here$/)
  expect(refusal(`${'x '.repeat(97)}sk-ant-0123456789`)).not.toContain('sk-')
})
