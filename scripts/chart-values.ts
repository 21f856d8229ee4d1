/**
 * Writes the table of values in chart/README.md from chart/values.yaml: the key, the default, and the comment above it.
 * `npm run docs` rewrites it; `tests/chart/documents.test.ts` fails when it is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { isMap, isScalar, type Pair, parseDocument, type Scalar, type YAMLMap } from 'yaml'
import { renderTable } from './generated-table.ts'

const SOURCE = new URL('../chart/values.yaml', import.meta.url)
const TARGET = new URL('../chart/README.md', import.meta.url)

interface Value {
  key: string
  fallback: string
  meaning: string
}

/** The document with its table as the source has it now. */
export function renderValues() {
  const rows = readValues().map(({ key, fallback, meaning }) => [`\`${key}\``, `\`${fallback}\``, meaning])
  return renderTable({ target: TARGET, name: 'values', columns: ['key', 'default', 'meaning'], rows })
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
