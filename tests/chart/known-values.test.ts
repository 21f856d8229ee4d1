import { expect, test } from 'vitest'
import { renderKnownValues } from '../../scripts/chart-keys.ts'

test('chart/files/known-values.yaml has the keys of the schema (npm run docs)', () => {
  const { current, rendered } = renderKnownValues()
  expect(current).toBe(rendered)
})
