import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { createProcessLauncher, type Launcher } from './launcher.ts'
import { createScripts, isAlive, log, SOURCE_ENTRY, SPEAKS, until } from './test-rig.ts'

const scripts = createScripts()
afterAll(scripts.remove)

async function launcherOf(script: string) {
  const launcher = createProcessLauncher(
    { log },
    { entry: scripts.write(script), args: [], memoryMb: 512, cacheDirs: [] },
  )
  await launcher.start()
  return launcher
}

/** Runs a script and returns what it prints. */
async function outputOf(launcher: Launcher) {
  const launched = launcher.launch()
  let text = ''
  const started = await launched.started
  started?.stdout.on('data', (chunk) => {
    text += chunk
  })
  const exit = await launched.exited
  return { text, exit }
}

it('a launcher that could not start can be stopped', async () => {
  const { TMPDIR } = process.env
  process.env.TMPDIR = '/nowhere'
  const launcher = createProcessLauncher({ log }, { entry: SOURCE_ENTRY, args: [], memoryMb: 512, cacheDirs: [] })
  await expect(launcher.start()).rejects.toThrow('ENOENT')
  if (TMPDIR === undefined) delete process.env.TMPDIR
  else process.env.TMPDIR = TMPDIR
  await launcher.stop()
})

describe('a launched process', () => {
  it('finds none of our environment, in any process that is its own', async () => {
    process.env.LOBU_CANARY = 'canary-7f3a'
    const launcher = await launcherOf(`
      import { execFileSync } from 'node:child_process'
      import { readFileSync } from 'node:fs'
      console.log(Object.keys(process.env).sort().join(' '))
      console.log(readFileSync('/proc/self/environ', 'utf8'), execFileSync('env').toString())`)
    const { text } = await outputOf(launcher)
    delete process.env.LOBU_CANARY
    expect(text.split('\n')[0]).toBe('HOME LANG MALLOC_ARENA_MAX PATH TMPDIR TZ')
    expect(text).not.toContain('canary')
    await launcher.stop()
  })

  it('inherits four descriptors and has an empty private folder that goes with it', async () => {
    const launcher = await launcherOf(`
      import { readdirSync, statSync, readlinkSync } from 'node:fs'
      const before = readdirSync('/proc/self/fd').map((fd) => { try { return readlinkSync('/proc/self/fd/' + fd) } catch { return '' } })
      const ours = before.filter((link) => link.startsWith('socket:') || link.startsWith('/') && !link.startsWith('/dev/null'))
      console.log(JSON.stringify({ sockets: ours.length, cwd: process.cwd(), files: readdirSync('.'), mode: statSync('.').mode & 0o777 }))`)
    const { text } = await outputOf(launcher)
    const seen = JSON.parse(text)
    expect(seen).toMatchObject({ sockets: 3, files: [], mode: 0o700 })
    expect(existsSync(seen.cwd)).toBe(false)
    await launcher.stop()
    expect(existsSync(join(seen.cwd, '..'))).toBe(false)
  })

  it('leads its own group, is the first to go when memory runs out, and ignores Ctrl-C', async () => {
    const launcher = await launcherOf(`${SPEAKS} process.on('SIGINT', () => {}); setInterval(() => {}, 1000)`)
    const { started, signal, exited } = launcher.launch()
    const { pid } = (await started)!
    const group = Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[2])
    expect(group).toBe(pid)
    await until(() => readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim() === '800')
    signal('SIGKILL')
    expect(await exited).toMatchObject({ signal: 'SIGKILL' })
    signal('SIGKILL')
    await launcher.stop()
  })

  it('that can not run at all says why and does not throw', async () => {
    const before = process.execPath
    const launcher = await launcherOf('')
    process.execPath = '/nowhere/node'
    const { exit } = await outputOf(launcher)
    process.execPath = before
    // setpriv, where it is there, is what starts and then finds nothing to run.
    expect(exit.error ?? exit.code).not.toBe(0)
    await launcher.stop()
  })

  it('that finds no descriptor left says why, and does not take its parent with it', async () => {
    const launcherUrl = JSON.stringify(join(import.meta.dirname, 'launcher.ts'))
    const loggerUrl = JSON.stringify(join(import.meta.dirname, '../lib/logger.ts'))
    const parent = scripts.write(
      `
      import { closeSync, openSync } from 'node:fs'
      import { createLogger } from ${loggerUrl}
      import { createProcessLauncher } from ${launcherUrl}
      const log = createLogger({ level: 'silent', pretty: false })
      const launcher = createProcessLauncher({ log }, { entry: import.meta.filename, args: [], memoryMb: 512, cacheDirs: [] })
      await launcher.start()
      const open: number[] = []
      try { for (;;) open.push(openSync('/dev/null')) } catch {}
      const { error } = await launcher.launch().exited
      await new Promise(setImmediate)
      open.forEach((fd) => closeSync(fd))
      console.log(error)
      await launcher.stop()`,
      'ts',
    )
    const child = spawn('sh', ['-c', 'ulimit -n 100; exec "$0" "$1"', process.execPath, parent])
    let text = ''
    child.stdout.on('data', (data) => {
      text += data
    })
    child.stderr.on('data', (data) => {
      text += data
    })
    const [code] = await once(child, 'close')
    expect({ text, code }).toMatchObject({ text: expect.stringContaining('EMFILE'), code: 0 })
  })

  it('has a folder although somebody has tidied up the temporary files', async () => {
    const launcher = await launcherOf('console.log(process.cwd())')
    const before = (await outputOf(launcher)).text.trim()
    rmSync(dirname(before), { recursive: true })
    const after = (await outputOf(launcher)).text.trim()
    expect(dirname(after)).not.toBe(dirname(before))
    await launcher.stop()
    expect(existsSync(dirname(after))).toBe(false)
  })

  it('lets go of its output although something that left its group still holds it', async () => {
    const launcher = await launcherOf(`
      import { spawn } from 'node:child_process'
      const { pid } = spawn('sleep', ['1000'], { detached: true, stdio: 'inherit' })
      console.log(pid)
      process.exit(0)`)
    const { started, exited } = launcher.launch()
    const { stdout, stderr } = (await started)!
    const [line] = await once(stdout, 'data')
    await exited
    process.kill(Number(line), 'SIGKILL')
    expect([stdout.destroyed, stderr.destroyed]).toEqual([true, true])
    await launcher.stop()
  })

  it('before the start, and after the stop, is none', async () => {
    const launcher = createProcessLauncher({ log }, { entry: SOURCE_ENTRY, args: [], memoryMb: 512, cacheDirs: [] })
    expect((await launcher.launch().exited).error).toBe('the launcher is not started')
    await launcher.start()
    await launcher.stop()
    await launcher.stop()
    expect((await launcher.launch().exited).error).toBe('the launcher is not started')
  })
})

/**
 * A gateway of its own, which prints the ids of its processes when its turn has begun to stream: first the spawner, then its
 * children, which are the workers and the guard, then what the worker has started.
 */
const GATEWAY = (worker: string) => `
  import { readFileSync } from 'node:fs'
  import { startRig, createListener, turnOf, until } from '${join(import.meta.dirname, 'test-rig.ts')}'
  const childrenOf = (pid) => readFileSync('/proc/' + pid + '/task/' + pid + '/children', 'utf8').split(' ').filter(Boolean).map(Number)
  const rig = await startRig({ entry: ${JSON.stringify(worker)}, warm: 1 })
  const heard = createListener()
  const on = { ...heard.on, async onDelta(text) {
    await until(() => rig.pids().length === 2)
    const [spawner] = childrenOf(process.pid)
    console.log(JSON.stringify([spawner, ...childrenOf(spawner), ...JSON.parse(text)]))
  } }
  await rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on, signal: new AbortController().signal })
`

/** A worker that has started something which has started something, all deaf to SIGTERM, and tells their ids. */
const PARENT = (then: string) => `${SPEAKS}
  import { spawn } from 'node:child_process'
  import { createInterface } from 'node:readline'
  onCommand = ({ type, runId, fence }) => {
    if (type !== 'turn') return
    const shell = spawn('sh', ['-c', "trap '' TERM HUP; sleep 1000 & echo $!; (sleep 1000 & echo $!) ; wait"], { stdio: ['ignore', 'pipe', 'ignore'] })
    const pids = [shell.pid]
    createInterface(shell.stdout).on('line', (line) => {
      if (pids.push(Number(line)) === 3) {
        say({ type: 'delta', runId, fence, text: JSON.stringify(pids) })
        setTimeout(() => { ${then} }, 50)
      }
    })
  }
  say({ type: 'ready' })
`

describe('when the gateway dies', () => {
  let gateway: ChildProcess | undefined
  afterAll(() => gateway?.kill('SIGKILL'))

  it.each([
    ['idle', ''],
    ['in a busy loop', 'for (;;);'],
    [
      'deaf to everything',
      "process.on('SIGTERM', () => {}); process.removeAllListeners('exit'); h2.removeAllListeners(); socket.removeAllListeners()",
    ],
  ])('a worker that is %s dies too, and all that it has started', async (_, then) => {
    gateway = spawn(process.execPath, [scripts.write(GATEWAY(scripts.write(PARENT(then))), 'ts')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [line] = await once(gateway.stdout!, 'data')
    const pids = JSON.parse(String(line)) as number[]
    expect(pids).toHaveLength(7)
    expect(pids.every(isAlive)).toBe(true)
    gateway.kill('SIGKILL')
    await until(() => !pids.some(isAlive))
  })

  it('together with the spawner, in whatever order, nothing stays either', async () => {
    for (const isFirst of [true, false]) {
      const script = scripts.write(GATEWAY(scripts.write(PARENT('for (;;);'))), 'ts')
      gateway = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] })
      const [line] = await once(gateway.stdout!, 'data')
      const pids = JSON.parse(String(line)) as number[]
      // Frozen, so that none of them can do anything about the death of the other.
      for (const pid of [gateway.pid!, pids[0]!]) process.kill(pid, 'SIGSTOP')
      for (const pid of isFirst ? [gateway.pid!, pids[0]!] : [pids[0]!, gateway.pid!]) process.kill(pid, 'SIGKILL')
      await until(() => !pids.some(isAlive))
    }
  })
})
