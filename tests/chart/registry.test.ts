import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../support/free-port.ts'
import { until } from '../support/gateway.ts'
import { CHART, findHelms } from '../support/helm.ts'
import { PAGE } from './value-sets.ts'

const helms = await findHelms()
const hasRegistry = canRun('docker-registry')

/** Debian's `docker-registry`, which is the distribution project's; `.ci/run` installs it. */
describe.skipIf(!hasRegistry || helms.length === 0)('the chart as a package', () => {
  let dir: string
  let registry: ChildProcess
  let host: string

  beforeAll(async () => {
    dir = mkdtempSync(path.join(tmpdir(), 'lobu-registry-'))
    host = `127.0.0.1:${await freePort()}`
    const config = path.join(dir, 'registry.yml')
    writeFileSync(
      config,
      JSON.stringify({
        version: 0.1,
        log: { level: 'error', accesslog: { disabled: true } },
        storage: { filesystem: { rootdirectory: path.join(dir, 'registry') } },
        http: { addr: host },
      }),
    )
    registry = spawn('docker-registry', ['serve', config], { stdio: 'ignore' })
    await until(
      () =>
        fetch(`http://${host}/v2/`).then(
          ({ ok }) => ok,
          () => false,
        ),
      'the registry answers',
      120_000,
    )
  })

  afterAll(async () => {
    if (registry?.exitCode === null && registry.kill()) await once(registry, 'exit')
    rmSync(dir, { recursive: true, force: true })
  })

  test.each(helms.map((helm) => [helm.version, helm] as const))(
    'helm %s pushes it to a registry and installs from there',
    async (version, helm) => {
      const run = async (...args: string[]) => {
        const { code, stdout, stderr } = await helm.run(args)
        expect(code, stderr).toBe(0)
        return stdout + stderr
      }
      const from = path.join(dir, version)
      expect(await run('package', CHART, '--destination', from)).toMatch(/lobu-\d+\.\d+\.\d+\.tgz/)
      const { stdout } = await helm.run(['show', 'chart', CHART])
      const chartVersion = /^version: (.+)$/m.exec(stdout)![1]!
      const address = `oci://${host}/${version}/charts`
      await run('push', path.join(from, `lobu-${chartVersion}.tgz`), address, '--plain-http')

      const into = path.join(dir, `${version}-pulled`)
      mkdirSync(into)
      await run('pull', `${address}/lobu`, '--version', chartVersion, '--destination', into, '--plain-http')
      const chart = path.join(into, `lobu-${chartVersion}.tgz`)
      expect(await helm.render({ chart, files: [PAGE] })).toEqual(await helm.render({ files: [PAGE] }))
      // As the page installs it: by the address, without a version.
      const direct = await run('template', 'lobu', `${address}/lobu`, '-n', 'lobu', '-f', PAGE, '--plain-http')
      expect(direct).toContain('name: lobu-app')
    },
  )
})

function canRun(program: string): boolean {
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
