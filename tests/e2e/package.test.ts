import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, onTestFinished } from 'vitest'
import { sendRequest } from '../support/cluster.ts'
import { followEvents } from '../support/follower.ts'
import { startGateway, startProgram, until } from '../support/gateway.ts'
import { productionEnv, test } from '../support/programs.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('its programs need one')

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const run = promisify(execFile)

/** What `npm pack` makes, unpacked far from this checkout, beside the packages that it names for production and no others. */
async function unpack() {
  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-package-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  await run('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', dir], { cwd: ROOT })
  await run('sh', ['-c', 'tar -xzf ./*.tgz'], { cwd: dir })
  const { packages } = JSON.parse(await readFile(path.join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; devOptional?: boolean }>
  }
  // Each with what lies inside of it; what was left out for this machine is not there.
  const names = Object.entries(packages)
    .filter(([name, { dev, devOptional }]) => name.lastIndexOf('node_modules/') === 0 && !dev && !devOptional)
    .map(([name]) => name)
    .filter((name) => existsSync(path.join(ROOT, name)))
  await run('sh', ['-c', 'tar -cf - -C "$0" "$@" | tar -xf - -C "$DIR"', ROOT, ...names], {
    env: { ...process.env, DIR: path.join(dir, 'package') },
  })
  return path.join(dir, 'package', 'dist')
}

// 70: what a package lacks shows only where nothing else lies about
test('every program of the package runs with its production dependencies alone', async ({ programs }) => {
  const dist = await unpack()
  const url = await programs.database({ empty: true })
  const env = productionEnv(url)
  async function command(...words: string[]) {
    const program = await startProgram(words, env, { build: dist })
    onTestFinished(program.destroy)
    const exit = await program.exited
    expect(exit, program.report()).toEqual({ code: 0, signal: null })
    return program.stdout().trim()
  }
  expect(await command('version')).toMatch(/^\d+\.\d+\.\d+/)
  await command('migrate')
  const key = (await command('bootstrap')).split('\n').at(-1)!

  for (const settings of [env, { LOBU_DATA_DIR: './data' }]) {
    const gateway = await startGateway(settings, { build: dist })
    onTestFinished(gateway.destroy)
    await gateway.ready()
    for (const page of ['/', '/api/docs', '/api/docs/openapi.json', '/sign-in', '/health']) {
      expect((await sendRequest('GET', `${gateway.url}${page}`, {})).status, page).toBe(200)
    }
    // The other one, on the embedded database, prints its first key soon after it is ready, and keeps it to itself.
    const printed = () => /lobu_[\w-]{32}/.exec(gateway.stdout())?.[0]
    const token = settings === env ? key : await until(printed, 'the first key is printed')
    const opened = await sendRequest('POST', `${gateway.url}/api/v1/agents`, { token, body: {} })
    const conversation = `${gateway.url}/api/v1/agents/${opened.body.agentId}`
    const follower = await followEvents(`${conversation}/events`, { token })
    const posted = await sendRequest('POST', `${conversation}/messages`, { token, body: { content: '/echo packed' } })
    const end = await follower.completed(String(posted.body.messageId))
    expect(end.data.finalText).toBe('packed')
    await follower.stop()
    gateway.signal('SIGINT')
    expect(await gateway.exited).toEqual({ code: 0, signal: null })
  }
  await command('secrets', 'rotate')
}, 300_000)
