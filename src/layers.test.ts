import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'

/** Each folder of src/, and the folders it may import from. docs/architecture.md draws the same table. */
const MAY_IMPORT: Record<string, string[]> = {
  lib: [],
  version: [],
  config: ['lib'],
  db: ['lib'],
  migrations: ['db', 'lib'],
  queue: ['db', 'lib'],
  sse: ['queue', 'db', 'lib'],
  adapters: ['lib'],
  domain: ['adapters', 'queue', 'sse', 'db', 'lib'],
  workers: ['domain', 'queue', 'sse', 'db', 'lib'],
  http: ['domain', 'sse', 'db', 'lib'],
  doorbells: ['workers', 'domain', 'sse', 'db', 'lib'],
  readiness: ['http', 'db', 'lib'],
  app: [
    ...['doorbells', 'readiness', 'version', 'http', 'workers', 'domain', 'adapters', 'queue', 'sse', 'migrations'],
    ...['db', 'config', 'lib'],
  ],
  commands: ['app', 'domain', 'migrations', 'db', 'config', 'version', 'lib'],
  main: ['commands', 'config'],
}
const LINES_MAX = 400

const root = import.meta.dirname
const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(
  (file) => file.endsWith('.ts') && !file.endsWith('.test.ts') && !path.basename(file).startsWith('test-'),
)
const textOf = (file: string) => readFileSync(path.join(root, file), 'utf8')
const layerOf = (file: string) => file.split(path.sep)[0]!.replace(/\.ts$/, '')

function importsOf(file: string): string[] {
  return [...textOf(file).matchAll(/(?:from|import\() ?'(\.{1,2}\/[^']+)'/g)]
    .map(([, spec]) => path.join(path.dirname(file), spec!))
    .filter((target) => !target.startsWith('..'))
}

test.each(files)('%s imports only downward', (file) => {
  const foreign = importsOf(file)
    .map(layerOf)
    .filter((layer) => layer !== layerOf(file))
  expect(MAY_IMPORT[layerOf(file)] ?? [], `${file} imports upward`).toEqual(expect.arrayContaining(foreign))
})

test.each(files.filter((file) => file.startsWith('workers/child/')))('%s knows only the protocol', (file) => {
  const foreign = importsOf(file).filter((target) => !target.startsWith('workers/child/'))
  expect(foreign.filter((target) => target !== 'workers/protocol.ts' && layerOf(target) !== 'lib')).toEqual([])
})

test.each(files.filter((file) => file.startsWith('domain/')))('%s knows of adapters only what they promise', (file) => {
  const adapters = importsOf(file).filter((target) => layerOf(target) === 'adapters')
  expect(adapters.filter((target) => path.basename(target) !== 'contract.ts')).toEqual([])
})

test.each(files)('%s is short enough to read in one sitting', (file) => {
  expect(textOf(file).trimEnd().split('\n').length).toBeLessThanOrEqual(LINES_MAX)
})

test.each(files.filter((file) => !['main.ts', 'config.ts'].includes(file)))(
  '%s does not read the environment',
  (file) => {
    expect(textOf(file)).not.toMatch(/process\.env\b/)
  },
)
