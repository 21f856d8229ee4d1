import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'

/**
 * Each folder of src/ and each file beside them, and what it may import. Ordered: whoever imports stands above, so there
 * is no circle. `types of x` may not be there at run time. docs/architecture.md draws the same table.
 */
const MAY_IMPORT: Record<string, string[]> = {
  main: ['commands', 'config'],
  commands: ['app', 'doctor', 'domain', 'migrations', 'telemetry', 'types of db', 'types of config', 'version', 'lib'],
  doctor: ['workers', 'domain', 'adapters', 'migrations', 'db', 'types of config', 'lib'],
  app: [
    ...[
      'doorbells',
      'gauges',
      'readiness',
      'http',
      'workers',
      'domain',
      'adapters',
      'sse',
      'queue',
      'migrations',
      'db',
    ],
    ...['types of telemetry', 'types of config', 'version', 'lib'],
  ],
  doorbells: ['types of workers', 'types of domain', 'sse', 'types of db', 'telemetry'],
  gauges: ['types of readiness', 'types of workers', 'queue', 'types of db', 'types of telemetry'],
  readiness: ['types of http', 'types of db', 'types of lib'],
  http: ['domain', 'sse', 'types of db', 'telemetry', 'lib'],
  workers: ['domain', 'sse', 'queue', 'types of db', 'telemetry', 'lib'],
  domain: ['adapters', 'sse', 'queue', 'db', 'telemetry', 'lib'],
  adapters: ['lib'],
  sse: ['types of queue', 'db', 'telemetry', 'lib'],
  queue: ['db', 'types of telemetry', 'lib'],
  migrations: ['db', 'lib'],
  db: ['lib'],
  config: ['lib'],
  telemetry: ['lib'],
  version: [],
  lib: [],
}
/** Packages that only one folder may know. */
const OWNERS: Record<string, string> = {
  hono: 'http',
  '@hono': 'http',
  postgres: 'db',
  'drizzle-orm': 'db',
  '@electric-sql': 'db',
  '@ai-sdk': 'workers',
  undici: 'adapters',
  jose: 'domain',
  'better-auth': 'domain',
  '@better-auth': 'domain',
  nodemailer: 'adapters',
  'prom-client': 'telemetry',
  '@opentelemetry': 'telemetry',
  '@sentry': 'telemetry',
}
const LINES_MAX = 400

const root = import.meta.dirname
const all = readdirSync(root, { recursive: true, encoding: 'utf8' }).map((file) => file.replaceAll(path.sep, '/'))
const files = all.filter((file) => file.endsWith('.ts') && !/\.test\.ts$|\/test-[^/]*\.ts$/.test(file))
const textOf = (file: string) => readFileSync(path.join(root, file), 'utf8')
const layerOf = (file: string) => file.split('/')[0]!.replace(/\.ts$/, '')

interface Import {
  /** A path below src/, or the name of a package. */
  target: string
  isOurs: boolean
  typesOnly: boolean
}

function importsOf(file: string): Import[] {
  const found = textOf(file).matchAll(
    /^(?:import|export)\s(?<types>type\s)?[^'"`;]*?from '(?<from>[^']+)'|^import '(?<bare>[^']+)'|\bimport\('(?<lazy>[^']+)'\)/gm,
  )
  return [...found].map(({ groups }) => {
    const spec = groups!.from ?? groups!.bare ?? groups!.lazy!
    const isOurs = spec.startsWith('.')
    const target = isOurs ? path.posix.join(path.posix.dirname(file), spec) : spec
    return { target, isOurs, typesOnly: groups!.types !== undefined }
  })
}

const ownImports = (file: string) => importsOf(file).filter(({ isOurs }) => isOurs)

test('the table knows every folder and file of src/, and no others', () => {
  expect(Object.keys(MAY_IMPORT).sort()).toEqual([...new Set(files.map(layerOf))].sort())
})

test('the table has no circle: each row allows only what stands below it', () => {
  const order = Object.keys(MAY_IMPORT)
  for (const [layer, allowed] of Object.entries(MAY_IMPORT)) {
    for (const other of allowed) {
      expect(order.indexOf(other.replace('types of ', '')), `${layer}: ${other}`).toBeGreaterThan(order.indexOf(layer))
    }
  }
})

test('the table allows nothing that nobody needs', () => {
  const used = new Set(
    files.flatMap((file) => ownImports(file).map((one) => `${layerOf(file)} ${layerOf(one.target)}`)),
  )
  const allowed = Object.entries(MAY_IMPORT).flatMap(([layer, others]) =>
    others.map((other) => `${layer} ${other.replace('types of ', '')}`),
  )
  // `lib` is open to all.
  expect(allowed.filter((pair) => !used.has(pair) && !pair.endsWith(' lib'))).toEqual([])
})

describe.each(files)('%s', (file) => {
  test('imports only downward', () => {
    const layer = layerOf(file)
    const refused = ownImports(file)
      .filter(({ target }) => !target.startsWith('../') && layerOf(target) !== layer)
      .filter(({ target, typesOnly }) => {
        const allowed = MAY_IMPORT[layer] ?? []
        return !allowed.includes(layerOf(target)) && !(typesOnly && allowed.includes(`types of ${layerOf(target)}`))
      })
    expect(refused).toEqual([])
  })

  test('imports nothing from outside of src/, and nothing that is made for tests', () => {
    const strange = ownImports(file).filter(
      ({ target }) => target.startsWith('../') || /\.test\.ts$|\/test-/.test(target),
    )
    expect(strange.map(({ target }) => target)).toEqual(file === 'version.ts' ? ['../package.json'] : [])
  })

  test('leaves packages to the folder that owns them', () => {
    const packages = importsOf(file).filter(({ isOurs }) => !isOurs)
    const foreign = packages.filter(({ target }) => {
      const owner = OWNERS[target.split('/')[0]!]
      return owner !== undefined && owner !== layerOf(file)
    })
    expect(foreign.map(({ target }) => target)).toEqual([])
  })

  test('is short enough to read in one sitting, and named like the others', () => {
    expect(textOf(file).trimEnd().split('\n').length).toBeLessThanOrEqual(LINES_MAX)
    expect(file).toMatch(/^([a-z0-9]+(-[a-z0-9]+)*\/)*[a-z0-9]+(-[a-z0-9]+)*\.ts$/)
  })

  test('reads no environment and prints nothing past the logger, but for main.ts', () => {
    if (file === 'main.ts') return
    const code = textOf(file).replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '')
    expect(code).not.toMatch(/\bprocess\.env\b|\benv\b.*from 'node:process'/)
    expect(code).not.toMatch(/\bconsole\s*\./)
  })
})

test.each(files.filter((file) => file.startsWith('workers/child/')))('%s knows only the protocol', (file) => {
  const foreign = ownImports(file).filter(({ target }) => !target.startsWith('workers/child/'))
  expect(foreign.filter(({ target }) => target !== 'workers/protocol.ts' && layerOf(target) !== 'lib')).toEqual([])
})

test.each(files.filter((file) => /^workers\/[^/]+\.ts$/.test(file)))(
  '%s imports nothing that runs in the child',
  (file) => {
    expect(ownImports(file).filter(({ target }) => target.startsWith('workers/child/'))).toEqual([])
  },
)

describe('adapters', () => {
  const familyOf = (file: string) => file.split('/').slice(0, 2).join('/')
  const members = files
    .filter((file) => /^adapters\/[^/]+\/index\.ts$/.test(file))
    .flatMap((index) => ownImports(index).filter(({ target }) => path.basename(target) !== 'contract.ts'))
    .map(({ target }) => target)

  test('there are members to look at', () => {
    expect(members.length).toBeGreaterThan(3)
  })

  test.each(members)('%s knows no other member, nor how the family is put together', (member) => {
    const own = [member, ...files.filter((file) => file.startsWith(`${member.replace(/\.ts$/, '')}/`))]
    const others = [...members, `${familyOf(member)}/index.ts`].filter((other) => other !== member)
    const reached = own.flatMap((file) => ownImports(file).map(({ target }) => target))
    expect(reached.filter((target) => others.some((other) => isWithin(target, other)))).toEqual([])
  })

  test.each(files.filter((file) => file.startsWith('adapters/')))('%s stays in its family', (file) => {
    const foreign = ownImports(file).filter(({ target }) => layerOf(target) === 'adapters')
    expect(foreign.filter(({ target }) => familyOf(target) !== familyOf(file))).toEqual([])
  })

  test.each(files.filter((file) => file.startsWith('domain/')))('%s knows of them only what they promise', (file) => {
    const known = ownImports(file).filter(({ target }) => layerOf(target) === 'adapters')
    expect(known.filter(({ target }) => path.basename(target) !== 'contract.ts')).toEqual([])
  })
})

test('no file needs itself, however long the way round', () => {
  const edges = new Map(
    files.map((file) => [file, ownImports(file).flatMap((one) => (one.typesOnly ? [] : [one.target]))]),
  )
  const done = new Set<string>()
  const circles: string[] = []
  const visit = (file: string, way: string[]) => {
    if (way.includes(file)) circles.push([...way.slice(way.indexOf(file)), file].join(' → '))
    if (way.includes(file) || done.has(file)) return
    for (const next of edges.get(file) ?? []) visit(next, [...way, file])
    done.add(file)
  }
  for (const file of files) visit(file, [])
  expect(circles).toEqual([])
})

test('imports name files that are there', () => {
  const missing = files.flatMap((file) => ownImports(file).filter(({ target }) => !existsSync(path.join(root, target))))
  expect(missing).toEqual([])
})

test('test files are named like the others, and none of their tests is left out', () => {
  for (const file of all.filter((name) => name.endsWith('.test.ts'))) {
    expect(path.basename(file), file).toMatch(/^[a-z0-9]+(-[a-z0-9]+)*\.test\.ts$/)
    expect(textOf(file), file).not.toMatch(/\b(test|describe|it)\.only\b/)
  }
})

function isWithin(target: string, member: string): boolean {
  return target === member || target.startsWith(`${member.replace(/\.ts$/, '')}/`)
}
