import { expect, test } from 'vitest'
import { isReservedSlug, SLUG, slugOf } from './slug.ts'

test.for([
  ['Acme', 'acme'],
  ['Acme & Söhne GmbH', 'acme-so-hne-gmbh'],
  ['  42 Things ', 'things'],
  ['x'.repeat(200), 'x'.repeat(30)],
  ['日本', null],
  ['--', null],
] as const)('a name %j becomes the slug %j', ([name, slug]) => {
  expect(slugOf(name)).toBe(slug)
})

test.for(['ab', 'a'.repeat(41), 'Acme', '1st', 'a--b', 'a-', '-a', 'a_b', 'a.b', 'a/b', 'é', 'acme\n'])(
  '%j is no slug',
  (slug) => {
    expect(SLUG.test(slug)).toBe(false)
  },
)

test('what is, or may become, a path of the product is reserved', () => {
  for (const word of ['api', 'auth', 'v1', 'agents', 'organizations', 'invitations', 'docs', 'workers', 'mcp']) {
    expect(isReservedSlug(word), word).toBe(true)
  }
  expect(isReservedSlug('acme')).toBe(false)
})
