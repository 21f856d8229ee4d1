import { expect, test } from 'vitest'
import { renderOpenApi } from '../../scripts/openapi.ts'

test('docs/openapi.json is what the gateway serves (npm run docs)', () => {
  const { current, rendered } = renderOpenApi()
  expect(current).toBe(rendered)
})
