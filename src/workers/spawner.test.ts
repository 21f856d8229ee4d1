import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it, onTestFinished } from 'vitest'
import type { Logger } from '../lib/logger.ts'
import type { LaunchedProcess } from './launched.ts'
import { createProcessLauncher, type Launcher } from './launcher.ts'
import { openSpawner } from './spawner.ts'
import {
  ANSWERS_AT_ONCE,
  createListener,
  createScripts,
  isAlive,
  log,
  runTurn,
  SPEAKS,
  startRig,
  turnOf,
  until,
} from './test-rig.ts'

const scripts = createScripts()
afterAll(scripts.remove)

/** State, parent, group and session of a process. */
function statOf(pid: number) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const [state, ...ids] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [parent, group, session] = ids.map(Number)
  return { state, parent: parent!, group, session }
}

const childrenOf = (pid: number) =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)

async function launcherOf(script: string, logger: Logger = log) {
  const options = { entry: scripts.write(script), args: [], memoryMb: 512, cacheDirs: [] }
  const launcher = createProcessLauncher({ log: logger }, options)
  await launcher.start()
  onTestFinished(launcher.stop)
  return launcher
}

async function rigOf(script: string, options = {}) {
  const rig = await startRig({ entry: scripts.write(script), ...options })
  onTestFinished(rig.pool.stop)
  return rig
}

/** All that a process says, to its end. */
async function wordsOf({ started, exited }: LaunchedProcess) {
  const { socket, stdout, stderr } = (await started)!
  const said = { socket: '', stdout: '', stderr: '' }
  for (const [name, stream] of Object.entries({ socket, stdout, stderr }) as [keyof typeof said, typeof socket][]) {
    stream.on('data', (data) => {
      said[name] += data
    })
  }
  await exited
  return said
}

/** A process that waits, and the spawner that is its parent. */
async function waiting(launcher: Launcher) {
  const launched = launcher.launch()
  const { pid } = (await launched.started)!
  return { ...launched, pid, spawner: statOf(pid).parent }
}

const WAITS = 'setInterval(() => {}, 1000)'

describe('the spawner', () => {
  it('is the parent of the workers and of their guard; we are not', async () => {
    const launcher = await launcherOf(WAITS)
    const one = await waiting(launcher)
    const other = await waiting(launcher)
    expect(one.spawner).not.toBe(process.pid)
    expect(other.spawner).toBe(one.spawner)
    expect(statOf(one.spawner).parent).toBe(process.pid)
    const family = childrenOf(one.spawner)
    expect(family).toHaveLength(3)
    for (const { signal, exited } of [one, other]) {
      signal('SIGKILL')
      expect(await exited).toEqual({ code: null, signal: 'SIGKILL' })
    }
    await launcher.stop()
    expect([one.spawner, ...family].filter(isAlive)).toEqual([])
  })

  it('holds nothing that a worker could want: no environment, no argument, no descriptor but its channels', async () => {
    process.env.LOBU_CANARY = 'canary-41c9'
    const { spawner } = await waiting(await launcherOf(WAITS))
    delete process.env.LOBU_CANARY
    const names = readFileSync(`/proc/${spawner}/environ`, 'utf8').split('\0').filter(Boolean)
    expect(names.map((one) => one.split('=')[0]).sort()).toEqual(['NODE_CHANNEL_FD', 'NODE_CHANNEL_SERIALIZATION_MODE'])
    const args = readFileSync(`/proc/${spawner}/cmdline`, 'utf8').split('\0').filter(Boolean)
    expect(args.at(-1)).toMatch(/spawner-main\.ts$/)
    expect(args.slice(1, -1).every((one) => one.startsWith('--'))).toBe(true)
    expect(readlinkSync(`/proc/${spawner}/fd/1`)).toBe('/dev/null')
  })

  it('is out of reach of Ctrl-C, and stays when all of a service are signalled', async () => {
    const launcher = await launcherOf(WAITS)
    const { spawner } = await waiting(launcher)
    expect(statOf(spawner)).toMatchObject({ group: spawner, session: spawner })
    for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM', 'SIGUSR1'] as const) process.kill(spawner, signal)
    const second = await waiting(launcher)
    expect(second.spawner).toBe(spawner)
  })

  it('reads nothing of what its processes say, so that nothing is lost while we are busy', async () => {
    const launcher = await launcherOf(`
      import { writeSync } from 'node:fs'
      for (const fd of [1, 2, 3]) writeSync(fd, 'first words on ' + fd)
      process.exit(3)`)
    const launched = Array.from({ length: 6 }, () => launcher.launch())
    // Time enough for them to be started, to write and to end, while the first descriptor has not been taken in yet.
    const until = performance.now() + 1500
    while (performance.now() < until);
    const said = await Promise.all(launched.map(wordsOf))
    expect(said).toEqual(
      Array(6).fill({ socket: 'first words on 3', stdout: 'first words on 1', stderr: 'first words on 2' }),
    )
    for (const { exited } of launched) expect(await exited).toEqual({ code: 3, signal: null })
  })

  it('that is killed takes its workers and their children along; turns are lost as crashed, and a new one serves', async () => {
    const rig = await rigOf(
      `${SPEAKS} ${ANSWERS_AT_ONCE}
       import { spawn } from 'node:child_process'
import { once } from 'node:events'
       const answer = onCommand
       onCommand = (command) => {
         if (command.type !== 'turn' || command.instructions !== 'hang') return answer(command)
         const { pid } = spawn('sh', ['-c', "trap '' TERM; sleep 1000"], { stdio: 'ignore' })
         say({ type: 'delta', runId: command.runId, fence: command.fence, text: String(pid) })
         setTimeout(() => { for (;;); }, 50)
       }`,
    )
    const heard = createListener()
    const turn = rig.pool.runTurn({
      ...{ key: 'o/c', turn: turnOf({ instructions: 'hang' }), on: heard.on, signal: new AbortController().signal },
    })
    await until(() => heard.text !== '')
    const [worker] = rig.pids()
    const spawner = statOf(worker!).parent
    const gone = [spawner, ...childrenOf(spawner), Number(heard.text)]
    process.kill(spawner, 'SIGKILL')
    expect(await turn).toMatchObject({ status: 'lost', error: { code: 'worker_crashed', retryable: true } })
    await until(() => !gone.some(isAlive))
    expect((await runTurn(rig)).end.status).toBe('completed')
    expect(statOf(rig.pids().at(-1)!).parent).not.toBe(spawner)
  })

  it('that is killed in the middle of a start says so, and leaves nothing', async () => {
    const launcher = await launcherOf(WAITS)
    const { spawner } = await waiting(launcher)
    process.kill(spawner, 'SIGSTOP')
    const caught = launcher.launch()
    process.kill(spawner, 'SIGKILL')
    expect((await caught.exited).error).toBe('the spawner of workers is gone')
    expect(await caught.started).toBe(undefined)
    expect(isAlive((await waiting(launcher)).pid)).toBe(true)
  })

  it('that hangs is killed, and what it owes is told to be lost', async () => {
    const spawner = await openSpawner({ log }, { silenceMs: 200 })
    onTestFinished(spawner.stop)
    const spec = { command: process.execPath, args: ['-e', WAITS], env: {} }
    const first = spawner.start(spec)
    const { parent } = statOf((await first.started)!.pid)
    process.kill(parent, 'SIGSTOP')
    first.signal('SIGTERM')
    const second = spawner.start(spec)
    expect((await second.exited).error).toBe('the spawner of workers is gone')
    expect(await first.exited).toMatchObject({ signal: 'SIGKILL' })
    expect(isAlive(parent)).toBe(false)
    expect(spawner.isRunning()).toBe(false)
    expect((await spawner.start(spec).exited).error).toBe('the spawner of workers is gone')
  })

  it('ends with a gateway that dies before it has taken what was handed over', async () => {
    const gateway = scripts.write(`
      import { openSpawner } from ${JSON.stringify(join(import.meta.dirname, 'spawner.ts'))}
      const spawner = await openSpawner({ log: { debug() {}, warn() {} } })
      spawner.start(${JSON.stringify({ command: process.execPath, args: ['-e', WAITS], env: {} })})
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)`)
    const child = spawn(process.execPath, [gateway], { stdio: 'ignore' })
    onTestFinished(() => void child.kill('SIGKILL'))
    const below = () => childrenOf(child.pid!).flatMap((one) => [one, ...childrenOf(one)])
    // The spawner, its guard, and the process.
    await until(() => below().length === 3)
    const left = below()
    child.kill('SIGKILL')
    await until(() => !left.some(isAlive))
  })

  it('lives on when a descriptor is refused that could be taken a moment later', async () => {
    const script = scripts.write(
      `
      import { channel } from 'node:diagnostics_channel'
      import { closeSync, openSync } from 'node:fs'
      import { openSpawner } from ${JSON.stringify(join(import.meta.dirname, 'spawner.ts'))}
      const open: number[] = []
      // The first refusal makes room again, before the spawner has heard of it.
      channel('child_process').subscribe((message) => {
        const { process: child } = message as any
        child.prependListener('internalMessage', () => open.splice(0).forEach((fd) => closeSync(fd)))
      })
      const spawner = await openSpawner({ log: { debug() {}, warn() {} } as any })
      const spec = ${JSON.stringify({ command: process.execPath, args: ['-e', ''], env: {} })}
      const told: (string | undefined)[] = []
      for (let n = 0; n < 2; n++) {
        if (n === 0) try { for (;;) open.push(openSync('/dev/null')) } catch {}
        told.push((await spawner.start(spec).exited).error)
      }
      console.log(JSON.stringify([spawner.isRunning(), ...told]))
      await spawner.stop()`,
      'ts',
    )
    const child = spawn('sh', ['-c', 'ulimit -n 60; exec "$0" "$1"', process.execPath, script])
    let text = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        text += data
      })
    }
    await once(child, 'close')
    expect(JSON.parse(text)).toEqual([true, expect.stringContaining('EMFILE'), null])
  })

  it('that cannot be started is done without, and the log says so once', async () => {
    const lines: string[] = []
    const logger: Logger = Object.assign(Object.create(log), {
      warn: (_: unknown, message: string) => lines.push(message),
    })
    const { execPath } = process
    process.execPath = '/nowhere/node'
    const launcher = await launcherOf(WAITS, logger)
    process.execPath = execPath
    const one = await waiting(launcher)
    const other = await waiting(launcher)
    expect([one.spawner, other.spawner]).toEqual([process.pid, process.pid])
    expect(lines.filter((line) => line.includes('spawner'))).toEqual([
      'no spawner: the gateway starts workers itself, and stands still meanwhile',
    ])
    other.signal('SIGKILL')
    expect(await other.exited).toMatchObject({ signal: 'SIGKILL' })
    await launcher.stop()
    expect([one.pid, other.pid].filter(isAlive)).toEqual([])
  })
})
