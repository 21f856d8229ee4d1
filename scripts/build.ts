/**
 * Bundles the gateway and its workers into dist/, in about a second. Run by Node itself, without a build of its own.
 *
 *   node scripts/build.ts              builds
 *   node scripts/build.ts --quiet      builds only if something has changed, and says nothing if it went well
 *   node scripts/build.ts --template   also makes the template of the embedded database (seconds; kept for later builds)
 *   node scripts/build.ts --prime      only compiles the workers' code ahead, for the user who calls it
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, cp, glob, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { BuildOptions, Plugin } from 'esbuild'

const ROOT = join(import.meta.dirname, '..')
const DIST = join(ROOT, 'dist')
const CACHE = join(ROOT, 'node_modules/.cache/lobu')
const FINGERPRINT = '.fingerprint'

/** Script -> its name in dist/. */
const GATEWAY_ENTRIES = {
  main: 'src/main.ts',
  'embedded-engine': 'src/db/embedded/engine.ts',
  spawner: 'src/workers/spawner-main.ts',
}
const WORKER_ENTRIES = { main: 'src/workers/child/main.ts' }
/** Left in node_modules: they read files that lie beside their own. */
const EXTERNAL = ['@electric-sql/*', 'swagger-ui-dist']
/** Files that are read at run time, and where the code looks for them. */
const ASSETS = [
  { from: 'src/migrations', to: 'migrations', pattern: '{*.sql,meta/*.json}' },
  { from: 'src/http/page', to: 'page', pattern: '*.{html,css,js}' },
]
/** What a build depends on. Tests are left out. */
const INPUTS = ['src/**/*', 'scripts/build.ts', 'package.json', 'package-lock.json']

/** CommonJS packages in an ES module call `require` for Node's own modules. */
const REQUIRE_BANNER =
  "import{createRequire as lobuCreateRequire}from'node:module';const require=lobuCreateRequire(import.meta.url);"

const SHARED: BuildOptions = {
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  // Old enough for main.ts to say which Node it needs.
  target: 'node20',
  banner: { js: REQUIRE_BANNER },
  chunkNames: 'chunk-[hash]',
  absWorkingDir: ROOT,
  logLevel: 'warning',
  legalComments: 'none',
}

async function runFromCommandLine(flags: Set<string>) {
  const startedAt = performance.now()
  const quiet = flags.has('--quiet')
  if (flags.has('--prime')) {
    if (!(await primeWorker())) throw new Error(`the compile cache of ${DIST}/worker cannot be filled`)
    return
  }
  if (flags.has('--template')) await makeTemplate()
  const outcome = await buildOrExit({ force: !quiet })
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
  if (!quiet) console.log(`${outcome} dist/ in ${seconds} s`)
}

/** Builds, or ends this process with a line that says why it can't. */
export function buildOrExit(options: { force: boolean }): Promise<'built' | 'kept'> {
  return build(options).catch((error: Error) => {
    // The compiler has shown each place already; a stack of its own would bury them.
    console.error(error.message.split('\n')[0])
    process.exit(1)
  })
}

/**
 * Brings dist/ up to date. The new build replaces the old one as a whole, so whoever reads dist/ meanwhile, or builds at
 * the same time, finds one build or the other.
 *
 * @throws when an entry is missing or does not compile; dist/ is then left as it was.
 */
async function build({ force }: { force: boolean }): Promise<'built' | 'kept'> {
  const fingerprint = await fingerprintInputs()
  if (!force && (await readFile(join(DIST, FINGERPRINT), 'utf8').catch(() => '')) === fingerprint) return 'kept'
  const draft = join(CACHE, `build-${process.pid}`)
  try {
    await bundle(draft)
    await copyAssets(draft)
    await describeBuild(draft)
    await writeFile(join(draft, FINGERPRINT), fingerprint)
    await replaceFolder(draft, DIST)
  } finally {
    await rm(draft, { recursive: true, force: true })
  }
  // Where it can't be filled, the gateway tries at its start, and does without otherwise.
  await primeWorker()
  return 'built'
}

async function primeWorker(): Promise<boolean> {
  const { primeCompileCache } = await import('../src/workers/compile-cache.ts')
  const { builtCacheDir } = await import('../src/workers/launcher.ts')
  const entry = join(DIST, 'worker/main.js')
  return primeCompileCache({ entry, dir: builtCacheDir(entry) })
}

async function bundle(outdir: string) {
  const missing = Object.values({ ...GATEWAY_ENTRIES, worker: WORKER_ENTRIES.main }).filter(
    (path) => !existsSync(join(ROOT, path)),
  )
  if (missing.length > 0) throw new Error(`nothing to build from: ${missing.join(', ')} missing`)
  const esbuild = await import('esbuild')
  const gateway = { ...SHARED, entryPoints: GATEWAY_ENTRIES, outdir, external: EXTERNAL, sourcemap: 'linked' } as const
  try {
    await Promise.all([esbuild.build(gateway), bundleWorker(join(outdir, 'worker'))])
  } finally {
    await esbuild.stop()
  }
  await chmod(join(outdir, 'main.js'), 0o755)
}

/** The worker alone. Minified, because each worker holds its source in memory. */
export async function bundleWorker(outdir: string) {
  const esbuild = await import('esbuild')
  await esbuild.build({ ...SHARED, entryPoints: WORKER_ENTRIES, outdir, minify: true, plugins: [slimWorker] })
}

/**
 * Leaves out of a worker what it never uses but would hold in memory: zod's messages in fifty languages, and the SDK's
 * client for a hosted gateway, which a model given as a string would silently call. A name that a later version of the
 * SDK imports from it fails the build.
 */
const slimWorker: Plugin = {
  name: 'slim-worker',
  setup({ onLoad, onResolve }) {
    onLoad({ filter: /[\\/]zod[\\/]v4[\\/]locales[\\/]index\.js$/ }, () => ({
      contents: "export { default as en } from './en.js'",
    }))
    onResolve({ filter: /^@ai-sdk\/gateway$/ }, () => ({ path: 'no-hosted-gateway', namespace: 'lobu' }))
    onLoad({ filter: /^no-hosted-gateway$/, namespace: 'lobu' }, () => ({ contents: NO_HOSTED_GATEWAY }))
  },
}

const NO_HOSTED_GATEWAY = `
  export class GatewayError extends Error { static isInstance() { return false } }
  export class GatewayAuthenticationError extends GatewayError {}
  export function createGateway() { throw new Error('there is no hosted model gateway here') }
  export const gateway = new Proxy(createGateway, { get: createGateway })
`

async function copyAssets(outdir: string) {
  for (const { from, to, pattern } of ASSETS) {
    for await (const file of glob(pattern, { cwd: join(ROOT, from) })) {
      await cp(join(ROOT, from, file), join(outdir, to, file))
    }
  }
  const template = await templatePath()
  if (existsSync(template)) await cp(template, join(outdir, 'embedded-template.tar'))
}

/** Nothing that differs between two builds of the same sources. */
async function describeBuild(outdir: string) {
  const { version } = await readManifest('package.json')
  await writeFile(join(outdir, 'build.json'), `${JSON.stringify({ version })}\n`)
}

/** Depends on the engine's version alone, and so outlives dist/. */
async function makeTemplate() {
  const template = await templatePath()
  if (existsSync(template)) return
  const { createTemplate } = await import('../src/db/embedded/template.ts')
  await createTemplate(template)
}

async function templatePath(): Promise<string> {
  const { version } = await readManifest('node_modules/@electric-sql/pglite/package.json')
  return join(CACHE, `embedded-template-${version}.tar`)
}

async function readManifest(path: string): Promise<{ version: string }> {
  return JSON.parse(await readFile(join(ROOT, path), 'utf8'))
}

/** Names, sizes and times of all inputs: what `make` would look at. */
async function fingerprintInputs(): Promise<string> {
  const hash = createHash('sha256').update(`${process.version} ${existsSync(await templatePath())}`)
  const files: string[] = []
  for await (const file of glob(INPUTS, { cwd: ROOT })) if (!file.endsWith('.test.ts')) files.push(file)
  for (const file of files.sort()) {
    const info = await stat(join(ROOT, file))
    if (info.isFile()) hash.update(`\n${file} ${info.size} ${info.mtimeMs}`)
  }
  return hash.digest('hex')
}

async function replaceFolder(draft: string, target: string, triesLeft = 5) {
  const old = `${draft}-old`
  await rename(target, old).catch(() => {})
  await rm(old, { recursive: true, force: true })
  try {
    await rename(draft, target)
  } catch (error) {
    // Another build has put its own there in between.
    if (triesLeft === 0) throw error
    await replaceFolder(draft, target, triesLeft - 1)
  }
}

if (import.meta.main) await runFromCommandLine(new Set(process.argv.slice(2)))
