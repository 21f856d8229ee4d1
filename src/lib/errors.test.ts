import { DrizzleQueryError } from 'drizzle-orm'
import { expect, test } from 'vitest'
import { AppError, errorLine } from './errors.ts'

const CANARY = 's3cret-canary'

test('a drizzle error speaks through its cause, without the query and its parameters', () => {
  const cause = Object.assign(new Error('relation "x" does not exist'), { name: 'PostgresError', code: '42P01' })
  const error = new DrizzleQueryError('select $1', [CANARY], cause)
  expect(error.message).toContain(CANARY)
  expect(errorLine(error)).toBe('PostgresError: relation "x" does not exist (42P01)')
})

test('a drizzle error without a cause keeps its parameters to itself', () => {
  expect(errorLine(new DrizzleQueryError('select $1', [CANARY]))).not.toContain(CANARY)
  const odd = Object.assign(new DrizzleQueryError('select $1', [CANARY]), { cause: { not: 'an error' } })
  expect(errorLine(odd)).not.toContain(CANARY)
})

test('a drizzle error as the cause of ours stays unsaid', () => {
  const inner = new DrizzleQueryError('select $1', [CANARY], new Error('gone'))
  const error = new AppError('database_unavailable', 'The database cannot be reached', { cause: inner })
  expect(errorLine(error)).toBe('AppError: The database cannot be reached (database_unavailable)')
})

test('it is one line, at most 500 characters', () => {
  expect(errorLine(new Error('first\n  second\r\nthird'))).toBe('Error: first second third')
  expect(errorLine(new Error('x'.repeat(10_000)))).toHaveLength(500)
  expect(errorLine('y'.repeat(10_000))).toHaveLength(500)
})

test('anything can be thrown', () => {
  for (const thrown of [undefined, null, 7, Symbol('s'), {}, Object.create(null), () => {}]) {
    expect(typeof errorLine(thrown)).toBe('string')
  }
  expect(errorLine('plain text')).toBe('plain text')
})

test('an AppError carries what the caller may see', () => {
  const cause = new Error('why')
  const error = new AppError('saturated', 'Try again', { retryAfterSeconds: 2, details: ['a'], cause })
  expect(error).toMatchObject({ code: 'saturated', message: 'Try again', retryAfterSeconds: 2, details: ['a'], cause })
  expect(new AppError('conflict', 'No')).toMatchObject({ retryAfterSeconds: undefined, details: undefined })
})
