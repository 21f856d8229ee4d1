/**
 * What an idle event stream costs, and one event to many of them: the built gateway with authentication and row-level security,
 * bare node:http, better-sse, and a loop of writes in C as the floor. The clients are a program in C. The event for the
 * gateway comes from another replica, so its time includes a notification and the tail.
 */
import { type ChildProcess, execFileSync, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { createNotifier } from '../src/db/notify.ts'
import { publishReplies } from '../src/queue/thread-response.ts'
import { encodeHints } from '../src/sse/hints.ts'
import type { Probe } from './probe.ts'
import { createScene, type Scene } from './scene.ts'
import { isQuick, log, median, pause, scaled, sharedNow, startGateway, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const STREAMS = scaled(5_000)
/** Of the gateway alone. */
const STALL_STREAMS = scaled(10_000)
const BROADCASTS = isQuick ? 3 : 12
const TEXT = `${'x'.repeat(160)}~`
const PROBE = ['--expose-gc', '--import', join(import.meta.dirname, 'probe.ts')]

/** A server under measurement. */
interface Contestant {
  port: number
  spread: number
  /** What stands before and behind the number of a stream in its path, and the token that goes with it. */
  path: [string, string]
  token: string
  /** Sends one event to every stream of `/1`; resolves with when. */
  broadcast(): Promise<number>
  probe(order: 'probe' | 'collect' | 'release'): Promise<Probe>
  stop(): Promise<void>
}

interface Opened {
  server: Contestant
  client: Client
}

interface Measured {
  idle: number
  /** The same without the room that V8 keeps because it needed it while they were opened. */
  needed: number
  lastMs: number[]
  cpuUs: number[]
  stallMs: number[]
}

const nothing = (): Measured => ({ idle: 0, needed: 0, lastMs: [], cpuUs: [], stallMs: [] })

export async function benchSse(): Promise<Row[]> {
  const dir = mkdtempSync(join(tmpdir(), 'lobu-bench-'))
  const program = join(dir, 'streams')
  try {
    execFileSync('cc', ['-O2', '-o', program, join(import.meta.dirname, 'native/streams.c')])
    return await withDatabase((url) => compare(program, url))
  } finally {
    rmSync(dir, { recursive: true })
  }
}

async function compare(program: string, url: string): Promise<Row[]> {
  const scene = await createScene(url, { poolMax: 2 })
  const names = await scene.conversations(STREAMS)
  const makers = {
    ours: () => openGateway(url, scene, names[0]!),
    bare: () => forkPeer('bare'),
    betterSse: () => forkPeer('better-sse'),
    floor: () => spawnFloor(program),
  }
  type Name = keyof typeof makers
  const contestants = Object.keys(makers) as Name[]
  const found: Record<Name, Measured> = { ours: nothing(), bare: nothing(), betterSse: nothing(), floor: nothing() }
  const open = new Map<Name, Opened>()
  try {
    for (const name of contestants) {
      const client = startClient(program)
      // In a process of its own: malloc gives nothing back.
      const fresh = await makers[name]()
      found[name].needed = await idleKib({ server: fresh, client }, 'release')
      await client.close()
      await fresh.stop()
      const opened = { server: await makers[name](), client }
      open.set(name, opened)
      found[name].idle = await idleKib(opened, 'collect')
    }
    for (let n = 0; n < BROADCASTS; n++) {
      for (const [name, opened] of open) await broadcast(opened, { streams: STREAMS, into: found[name], isWarm: n > 1 })
    }
    const ours = open.get('ours')!
    await ours.client.open({ ...ours.server, spread: 1 }, STALL_STREAMS - STREAMS)
    await pause(1_000)
    const many = nothing()
    found.ours.stallMs = many.stallMs
    for (let n = 0; n < BROADCASTS; n++) await broadcast(ours, { streams: STALL_STREAMS, into: many, isWarm: n > 1 })
  } finally {
    for (const { server, client } of open.values()) {
      await client.stop()
      await server.stop()
    }
  }
  await scene.close()
  const of = (name: Name, field: 'idle' | 'needed' | 'lastMs' | 'cpuUs') => median([found[name][field]].flat())
  const row = (
    name: string,
    field: 'idle' | 'needed' | 'lastMs' | 'cpuUs',
    unit: string,
    peer: [Name, string],
    goal?: string,
  ): Row => ({
    ...{ name, ours: of('ours', field), unit, goal },
    peer: { name: peer[1], value: of(peer[0], field) },
  })
  const streams = STREAMS.toLocaleString('en')
  const [bare, better, floor] = [
    ['bare', 'bare node:http'],
    ['betterSse', 'better-sse'],
    ['floor', 'a loop in C'],
  ] as [Name, string][]
  return [
    {
      ...row(`memory of an idle stream, ${streams} of them`, 'idle', 'KiB', bare!, '≤ 1.2× (≤ 1.05×; ≤ 22 KiB)'),
      note: 'the gateway knows credential, conversation and position of each; RSS after a collection, less that without streams',
    },
    row('the same', 'idle', 'KiB', better!),
    row('the same, when V8 gives back what it needed to open them', 'needed', 'KiB', bare!),
    row('the same', 'needed', 'KiB', better!),
    row(`one event to ${streams} streams, last byte`, 'lastMs', 'ms', bare!, '≤ 1.3×'),
    row('the same', 'lastMs', 'ms', better!),
    row('the same', 'lastMs', 'ms', floor!, '≤ 2× (≤ 1.4×)'),
    row('CPU of the server for each delivery', 'cpuUs', 'µs', floor!, '≤ 2× (≤ 1.4×)'),
    row('the same', 'cpuUs', 'µs', bare!),
    row('the same', 'cpuUs', 'µs', better!),
    {
      ...{
        name: `longest stall of the loop in a broadcast to ${STALL_STREAMS.toLocaleString('en')} streams`,
        unit: 'ms',
      },
      ...{ ours: median(found.ours.stallMs), goal: '≤ 25 ms (≤ 10 ms)' },
    },
  ]
}

/** KiB of resident memory for each stream of `STREAMS`, each of a conversation of its own; leaves as many open in one. */
async function idleKib({ server, client }: Opened, order: 'collect' | 'release'): Promise<number> {
  await client.open(server, Math.min(200, STREAMS))
  await client.close()
  await pause(500)
  const before = await server.probe(order)
  await client.open(server, STREAMS)
  await pause(1_000)
  const after = await server.probe(order)
  await client.close()
  await pause(1_000)
  await client.open({ ...server, spread: 1 }, STREAMS)
  return (after.rss - before.rss) / STREAMS / 1024
}

async function broadcast(
  { server, client }: Opened,
  { streams, into, isWarm }: { streams: number; into: Measured; isWarm: boolean },
): Promise<void> {
  const { cpuUs } = await server.probe('probe')
  const done = await client.expect(streams)
  const startedAt = await server.broadcast()
  const lastAt = await done()
  const after = await server.probe('probe')
  await pause(50)
  if (!isWarm && !isQuick) return
  into.lastMs.push(lastAt - startedAt)
  into.cpuUs.push((after.cpuUs - cpuUs) / streams)
  into.stallMs.push(after.stallMs)
}

type Client = ReturnType<typeof startClient>

/** The program that holds the other ends of the streams. */
function startClient(program: string) {
  const { child, tell, line } = startProgram(program, 'client')
  return {
    async open({ port, spread, path: [prefix, suffix], token }: Contestant, count: number) {
      tell(`open ${port} ${count} ${spread} ${prefix} ${suffix} ${token || '-'}`)
      await line()
    },
    /** Resolves when it counts; what it gives waits for the last mark and tells when that came. */
    async expect(marks: number) {
      tell(`expect ${marks}`)
      await line()
      return async () => Number((await line()).split(' ')[1])
    },
    async close() {
      tell('close')
      await line()
    },
    async stop() {
      child.kill()
      await once(child, 'exit')
    },
  }
}

function startProgram(program: string, mode: string) {
  const child = spawn(program, [mode], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    child,
    tell: (command: string) => child.stdin.write(`${command}\n`),
    async line(): Promise<string> {
      const { value, done } = await lines.next()
      if (done) throw new Error('the program of the streams has ended')
      return value
    },
  }
}

async function openGateway(url: string, scene: Scene, conversationId: string): Promise<Contestant> {
  const env = {
    STREAMS_MAX: '20000',
    STREAMS_PER_CONVERSATION_MAX: '10000',
    WORKERS_WARM: '0',
    STREAM_PING_SECONDS: '30',
  }
  const gateway = await startGateway({ ...env, DATABASE_URL: url, LOBU_KEY: scene.key, LOG_LEVEL: 'info' }, PROBE)
  const { sql, organizationId } = scene
  const notifier = createNotifier({ sql, log })
  return {
    port: Number(new URL(gateway.url).port),
    spread: STREAMS,
    path: ['/api/v1/agents/conv_', '/events'],
    token: scene.key,
    probe: (order) => askProbe(gateway.process, order),
    async broadcast() {
      const events = `tool-use ${JSON.stringify({ text: TEXT })}`
      await sql`
        insert into thread_response (organization_id, conversation_id, event_count, events)
        values (${organizationId}, ${conversationId}, 1, ${events})`
      const { published } = await publishReplies(sql, { rowsMax: 10, afterId: 0 })
      const at = sharedNow()
      for (const payload of encodeHints(published)) notifier.ring('lobu_events', payload)
      return at
    },
    stop: gateway.stop,
  }
}

async function forkPeer(kind: string): Promise<Contestant> {
  const child = fork(join(import.meta.dirname, 'sse-peer.ts'), [kind], { execArgv: PROBE })
  const [{ port }] = (await once(child, 'message')) as [{ port: number }]
  return {
    ...{ port, spread: STREAMS, path: ['/', '/'], token: '' },
    probe: (order) => askProbe(child, order),
    async broadcast() {
      child.send('broadcast')
      const [{ at }] = (await once(child, 'message')) as [{ at: number }]
      return at
    },
    async stop() {
      child.disconnect()
      await once(child, 'exit')
    },
  }
}

/** Its memory is not measured, only its time and CPU. */
async function spawnFloor(program: string): Promise<Contestant> {
  const { child, tell, line } = startProgram(program, 'floor')
  const port = Number(await line())
  let cpuUs = 0
  return {
    ...{ port, spread: STREAMS, path: ['/', '/'], token: '' },
    probe: async () => ({ rss: 0, heapUsed: 0, cpuUs, stallMs: 0 }),
    async broadcast() {
      tell('send')
      const [, at, cpu] = (await line()).split(' ')
      cpuUs += Number(cpu)
      return Number(at)
    },
    async stop() {
      child.kill()
      await once(child, 'exit')
    },
  }
}

async function askProbe(child: ChildProcess, order: string): Promise<Probe> {
  child.send(order)
  for (;;) {
    const [message] = (await once(child, 'message')) as [Partial<Probe>]
    if (message.rss !== undefined) return message as Probe
  }
}
