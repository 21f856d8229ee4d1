import { expect, test } from 'vitest'
import { renderSettings } from '../../scripts/settings.ts'

test('docs/operations.md lists every setting as src/config/environment.ts has it (npm run docs)', () => {
  const { current, rendered } = renderSettings()
  expect(current).toBe(rendered)
})
