/**
 * Writes the table of values in chart/README.md from chart/values.yaml: the key, the default, and the comment above it.
 * `npm run docs` rewrites it; `tests/chart/documents.test.ts` fails when it is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { isMap, isScalar, type Pair, parseDocument, type Scalar, type YAMLMap } from 'yaml'

const SOURCE = new URL('../chart/values.yaml', import.meta.url)
const TARGET = new URL('../chart/README.md', import.meta.url)
const BEGIN = '<!-- values: begin (npm run docs) -->'
const END = '<!-- values: end -->'

interface Value {
  key: string
  fallback: string
  meaning: string
}

/** The document with its table as the source has it now. */
export function renderValues(): { current: string; rendered: string } {
  const current = readFileSync(TARGET, 'utf8')
  const before = current.slice(0, current.indexOf(BEGIN) + BEGIN.length)
  const after = current.slice(current.indexOf(END))
  const rows = readValues().map(({ key, fallback, meaning }) => `| \`${key}\` | \`${fallback}\` | ${meaning} |`)
  const table = ['| key | default | meaning |', '| --- | --- | --- |', ...rows].join('\n')
  return { current, rendered: `${before}\n${table}\n${after}` }
}

/** Each key that has a comment. One without is a group, and goes on below. */
export function readValues(): Value[] {
  const document = parseDocument(readFileSync(SOURCE, 'utf8'))
  return valuesOf(document.contents as YAMLMap, '')
}

function valuesOf(map: YAMLMap, path: string): Value[] {
  return (map.items as Pair<Scalar<string>>[]).flatMap(({ key, value }, index) => {
    const name = `${path}${key.value}`
    // The comment above the first key of a map belongs to the map.
    const comment = key.commentBefore ?? (index === 0 ? map.commentBefore : undefined)
    if (comment === undefined || comment === null) {
      if (isMap(value)) return valuesOf(value, `${name}.`)
      throw new Error(`chart/values.yaml: ${name} has no comment`)
    }
    const plain = isScalar(value) ? value.value : (value as YAMLMap).toJSON()
    // What stands apart above it is about the whole file.
    const meaning = comment
      .split('\n\n')
      .at(-1)!
      .split('\n')
      .map((line) => line.trim())
      .join(' ')
    return [{ key: name, fallback: JSON.stringify(plain), meaning: meaning.replaceAll('|', '\\|').trim() }]
  })
}

if (import.meta.main) writeFileSync(TARGET, renderValues().rendered)
