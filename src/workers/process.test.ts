import { readFileSync } from 'node:fs'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import {
  ANSWERS_AT_ONCE,
  createListener,
  createScripts,
  isAlive,
  type RigOptions,
  runTurn,
  SPEAKS,
  startRig,
  turnOf,
  until,
} from './test-rig.ts'

const scripts = createScripts()
const rigs: Awaited<ReturnType<typeof startRig>>[] = []

/** A pool whose workers run this script. */
async function rigOf(script: string, options: RigOptions = {}) {
  const rig = await startRig({ entry: scripts.write(script), ...options })
  rigs.push(rig)
  return rig
}

afterEach(async () => {
  await Promise.all(rigs.splice(0).map((rig) => rig.pool.stop()))
})
afterAll(scripts.remove)

const NO_USAGE = '{ inputTokens: 0, outputTokens: 0, cachedInputTokens: 0 }'

const ONE_DELTA = `
  onCommand = ({ type, runId, fence }) => type === 'turn' && say({ type: 'delta', runId, fence, text: 'so far' })
  say({ type: 'ready' })
`

describe('a worker that does not start', () => {
  it.each([
    ['exits at once with 0', 'process.exit(0)'],
    ['exits at once with 1', 'process.exit(1)'],
    ['throws', 'throw new Error("broken")'],
    ['closes the connection', `${SPEAKS} setTimeout(() => h2.destroy(), 20); setInterval(() => {}, 1000)`],
    ['says what is no report', `${SPEAKS} session.write('hello\\n'); setInterval(() => {}, 1000)`],
    [
      'speaks no HTTP/2',
      `import fs from 'node:fs'; fs.writeSync(3, 'GET / HTTP/1.1\\r\\n\\r\\n'); setInterval(() => {}, 1000)`,
    ],
    ['opens two sessions', `${SPEAKS} open('/session'); setInterval(() => {}, 1000)`],
  ])('%s: the turn is lost, and the place is free', async (_, script) => {
    const rig = await rigOf(script)
    const { end } = await runTurn(rig)
    expect(end).toMatchObject({ status: 'lost', error: { code: 'worker_start_failed', retryable: true } })
    await until(() => rig.pool.snapshot().workers === 0)
    // Nothing more is claimed for this replica until a worker can be started.
    expect(rig.pool.snapshot()).toMatchObject({ busy: 0, fault: expect.any(String) })
    expect(rig.pool.free()).toBe(0)
  })

  it('is given up after its time', async () => {
    const rig = await rigOf(`${SPEAKS} setInterval(() => {}, 1000)`, { startMs: 100 })
    expect((await runTurn(rig)).end.error?.code).toBe('worker_start_failed')
    await until(() => !isAlive(rig.pids()[0]!))
  })

  it('is not tried again and again to keep one warm', async () => {
    const rig = await rigOf('process.exit(1)', { warm: 1 })
    await until(() => rig.pids().length === 1 && rig.pool.snapshot().workers === 0)
    await runTurn(rig)
    expect(rig.pids()).toHaveLength(2)
  })
})

describe('a worker that ends in a turn', () => {
  it('killed from outside: the turn is lost', async () => {
    const rig = await rigOf(SPEAKS + ONE_DELTA)
    const heard = createListener()
    const turn = rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on: heard.on, signal: new AbortController().signal })
    await until(() => heard.text === 'so far')
    process.kill(rig.pids()[0]!, 'SIGKILL')
    expect(await turn).toMatchObject({ status: 'lost', error: { code: 'worker_crashed', retryable: true } })
    expect(rig.pool.has('o/c')).toBe(false)
  })

  it('exits with 0 and no reply: the turn is lost', async () => {
    const rig = await rigOf(`${SPEAKS} onCommand = () => process.exit(0); say({ type: 'ready' })`)
    expect((await runTurn(rig)).end).toMatchObject({ status: 'lost', error: { code: 'worker_crashed' } })
  })

  it('says nothing for too long: it is killed and the turn is lost', async () => {
    const rig = await rigOf(`${SPEAKS} say({ type: 'ready' }); setInterval(() => {}, 1000)`, { silenceMs: 200 })
    expect((await runTurn(rig)).end).toMatchObject({ status: 'lost', error: { code: 'worker_silent' } })
    expect(isAlive(rig.pids()[0]!)).toBe(false)
  })

  it('is silent but beats: it may go on', async () => {
    const rig = await rigOf(
      `${SPEAKS}
       onCommand = ({ type, runId, fence }) => {
         if (type !== 'turn') return
         let beats = 0
         setInterval(() => {
           if (++beats < 20) say({ type: 'beat', runId, fence })
           else say({ type: 'end', runId, fence, status: 'completed', usage: ${NO_USAGE} })
         }, 100)
       }
       say({ type: 'ready' })`,
      { silenceMs: 1000 },
    )
    const { end, heard } = await runTurn(rig)
    expect(end.status).toBe('completed')
    expect(heard.beats).toBe(19)
  })

  it('takes too much memory: it is killed and says so', async () => {
    const rig = await rigOf(
      `${SPEAKS} const hoard = []; onCommand = () => setInterval(() => hoard.push(Buffer.alloc(20e6, 1)), 10); say({ type: 'ready' })`,
      { memoryMb: 300 },
    )
    expect((await runTurn(rig)).end).toMatchObject({ status: 'lost', error: { code: 'worker_out_of_memory' } })
  })

  it('runs out of heap: it says so', async () => {
    const rig = await rigOf(
      `${SPEAKS} const hoard = []; onCommand = () => { for (;;) hoard.push({ a: [hoard.length] }) }; say({ type: 'ready' })`,
      { memoryMb: 300 },
    )
    expect((await runTurn(rig)).end).toMatchObject({ status: 'lost', error: { code: 'worker_out_of_memory' } })
  })

  it('is silent because we do not listen: it may go on', async () => {
    const rig = await rigOf(
      `${SPEAKS}
       onCommand = ({ type, runId, fence }) => {
         if (type !== 'turn') return
         say({ type: 'delta', runId, fence, text: 'much' })
         setTimeout(() => say({ type: 'end', runId, fence, status: 'completed', usage: ${NO_USAGE} }), 100)
       }
       say({ type: 'ready' })`,
      { silenceMs: 1000 },
    )
    let looks = 0
    const on = { ...createListener().on, hasRoom: () => looks++ > 40 }
    const end = await rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on, signal: new AbortController().signal })
    expect(end.status).toBe('completed')
  })

  it('floods its session without a line end: it is killed and we stay small', async () => {
    const rig = await rigOf(
      `${SPEAKS} onCommand = () => { const flood = () => session.write('x'.repeat(1e6), flood); flood() }; say({ type: 'ready' })`,
    )
    const before = process.memoryUsage().rss
    expect((await runTurn(rig)).end).toMatchObject({ status: 'lost', error: { code: 'worker_crashed' } })
    expect(process.memoryUsage().rss - before).toBeLessThan(100e6)
  })

  it('floods its standard output: the turn goes on and we stay small', async () => {
    const rig = await rigOf(
      `${SPEAKS}
       onCommand = ({ runId, fence }) => {
         let sent = 0
         const flood = () => {
           if (sent++ < 200) return process.stdout.write('x'.repeat(1e6), flood)
           say({ type: 'end', runId, fence, status: 'completed', usage: ${NO_USAGE} })
         }
         flood()
       }
       say({ type: 'ready' })`,
    )
    const before = process.memoryUsage().rss
    expect((await runTurn(rig)).end.status).toBe('completed')
    expect(process.memoryUsage().rss - before).toBeLessThan(100e6)
  })
})

describe('ending a worker', () => {
  it.each([
    ['ignores SIGTERM', `process.on('SIGTERM', () => {})`],
    // Once it has spoken: one that spins before it is given its turn is another matter.
    ['spins', `session.on('data', () => setTimeout(() => { for (;;); }, 50)); process.on('SIGTERM', () => {})`],
  ])('that %s kills it', async (_, trick) => {
    const rig = await rigOf(`${SPEAKS} ${ONE_DELTA}\n${trick}`)
    const abort = new AbortController()
    const heard = createListener()
    const turn = rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on: heard.on, signal: abort.signal })
    await until(() => heard.text === 'so far')
    abort.abort()
    expect((await turn).status).toBe('cancelled')
    expect(isAlive(rig.pids()[0]!)).toBe(false)
  })

  it('takes what it has started with it', async () => {
    const rig = await rigOf(
      `${SPEAKS}
       import { spawn } from 'node:child_process'
       const { pid } = spawn('sh', ['-c', "trap '' TERM; sleep 1000 & sleep 1000"], { stdio: 'ignore' })
       onCommand = ({ type, runId, fence }) => type === 'turn' && say({ type: 'delta', runId, fence, text: String(pid) })
       say({ type: 'ready' })`,
    )
    const abort = new AbortController()
    const heard = createListener()
    const turn = rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on: heard.on, signal: abort.signal })
    await until(() => heard.text !== '')
    const shell = Number(heard.text)
    const sleeper = () => Number(readFileSync(`/proc/${shell}/task/${shell}/children`, 'utf8').split(' ')[0])
    await until(() => sleeper() > 0)
    const sleeping = sleeper()
    abort.abort()
    await turn
    await until(() => !isAlive(shell) && !isAlive(sleeping))
  })

  it('lets no output through after the cancel', async () => {
    const rig = await rigOf(
      `${SPEAKS}
       onCommand = ({ type, runId, fence = 1 }) => {
         if (type === 'turn') setInterval(() => say({ type: 'delta', runId, fence, text: '.' }), 1)
       }
       say({ type: 'ready' })`,
    )
    const abort = new AbortController()
    const heard = createListener()
    const turn = rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on: heard.on, signal: abort.signal })
    await until(() => heard.text.length > 5)
    const before = heard.text
    abort.abort()
    await turn
    expect(heard.text).toBe(before)
  })
})

describe('what a worker may ask', () => {
  it('only in the name of the turn that runs now', async () => {
    const asked: string[] = []
    const rig = await rigOf(
      `${SPEAKS}
       const ask = (path, headers, body = '{}') => new Promise((resolve) => {
         const stream = open(path, headers)
         stream.once('response', (fields) => resolve(path + ' ' + fields[':status']))
         stream.resume()
         stream.end(body)
       })
       const step = (runId, fence) => JSON.stringify({ runId, fence, step: 1, messages: [], usage, model: 'm', finish: 'answered' })
       const usage = ${NO_USAGE}
       const idle = await ask('/model/demo/chat')
       onCommand = async ({ type, runId, fence }) => {
         if (type !== 'turn') return
         const mine = { 'x-run-id': runId, 'x-run-fence': String(fence) }
         const old = { 'x-run-id': runId, 'x-run-fence': '0' }
         const answers = [
           'idle ' + idle,
           await ask('/model/demo/chat', {}),
           await ask('/model/demo/chat', old),
           await ask('/model/demo/chat?x=1', mine),
           await ask('/steps', old, step(runId, fence)),
           await ask('/steps', mine, step(runId, 0)),
           await ask('/steps', mine, '{"nonsense":1}'),
           await ask('/steps', mine, step(runId, fence)),
           await ask('/steer', old),
           await ask('/steer', mine),
           await ask('/elsewhere', mine),
         ]
         say({ type: 'delta', runId, fence: 0, text: 'stale' })
         say({ type: 'end', runId, fence: 0, status: 'completed', usage })
         say({ type: 'delta', runId, fence, text: answers.join('\\n') })
         say({ type: 'end', runId, fence, status: 'completed', usage })
       }
       say({ type: 'ready' })`,
      {
        requests: {
          model(_, res, { provider, path, run }) {
            asked.push(`${provider} ${path} ${run.fence} ${run.provider}`)
            res.writeHead(200)
            res.end('{}')
          },
        },
      },
    )
    const { end, heard } = await runTurn(rig)
    expect(end.status).toBe('completed')
    expect(heard.text.split('\n')).toEqual([
      'idle /model/demo/chat 403',
      '/model/demo/chat 403',
      '/model/demo/chat 403',
      '/model/demo/chat?x=1 200',
      '/steps 409',
      '/steps 409',
      '/steps 400',
      '/steps 204',
      '/steer 409',
      '/steer 200',
      '/elsewhere 404',
    ])
    expect(asked).toEqual(['demo /chat?x=1 1 demo'])
    expect(rig.steps).toHaveLength(1)
  })

  it('leaves no call behind when its turn has ended', async () => {
    let left = () => {}
    const closed = new Promise<void>((resolve) => (left = resolve))
    const rig = await rigOf(
      `${SPEAKS}
       onCommand = ({ runId, fence }) => {
         const call = open('/model/demo/chat', { 'x-run-id': runId, 'x-run-fence': String(fence) })
         call.on('error', () => {})
         call.once('response', () => say({ type: 'end', runId, fence, status: 'completed', usage: ${NO_USAGE} }))
         call.end()
       }
       say({ type: 'ready' })`,
      {
        requests: {
          model(_, res) {
            res.writeHead(200)
            res.write('never ending')
            res.once('close', left)
          },
        },
      },
    )
    expect((await runTurn(rig)).end.status).toBe('completed')
    await closed
    expect(isAlive(rig.pids()[0]!)).toBe(true)
  })

  it('reports that no turn waits for are ignored', async () => {
    const rig = await rigOf(`${SPEAKS} ${ANSWERS_AT_ONCE} say({ type: 'delta', runId: 'x', fence: 1, text: 'who?' })`)
    const { end, heard } = await runTurn(rig)
    expect(end).toMatchObject({ status: 'completed', usage: { inputTokens: 1, outputTokens: 2 } })
    expect(heard.text).toBe('')
  })
})
