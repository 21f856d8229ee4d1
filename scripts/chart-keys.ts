/**
 * Writes chart/files/known-values.yaml from chart/values.schema.json: the keys that exist, for the templates, which cannot
 * read the schema. What is a group of keys there is a map here; everything else is null, whatever it holds.
 * `npm run docs` rewrites it; `tests/chart/known-values.test.ts` fails when it is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { stringify } from 'yaml'

const SOURCE = new URL('../chart/values.schema.json', import.meta.url)
const TARGET = new URL('../chart/files/known-values.yaml', import.meta.url)

interface Schema {
  additionalProperties?: unknown
  properties?: Record<string, Schema>
}

type Keys = { [key: string]: Keys | null }

/** The file as it is, and as the schema would have it. */
export function renderKnownValues() {
  const keys = keysOf(JSON.parse(readFileSync(SOURCE, 'utf8')))
  return {
    current: readFileSync(TARGET, { encoding: 'utf8', flag: 'a+' }),
    rendered: `# The keys of values.schema.json (npm run docs).\n${stringify(keys)}`,
  }
}

function keysOf({ additionalProperties, properties = {} }: Schema): Keys | null {
  if (additionalProperties !== false) return null
  return Object.fromEntries(Object.entries(properties).map(([key, schema]) => [key, keysOf(schema)]))
}

if (import.meta.main) writeFileSync(TARGET, renderKnownValues().rendered)
