/** Who serves event streams in `sse.ts`, each in a process of its own, and the program in C that opens them. */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { createNotifier } from '../src/db/notify.ts'
import { publishReplies } from '../src/queue/thread-response.ts'
import { encodeHints } from '../src/sse/hints.ts'
import type { Probe } from './probe.ts'
import type { Scene } from './scene.ts'
import { log, sharedNow, startGateway } from './support.ts'

const TEXT = `${'x'.repeat(160)}~`
const PROBE = ['--expose-gc', '--import', join(import.meta.dirname, 'probe.ts')]
/** As many as a publisher takes. */
const PAGE = 500

/** A server under measurement. */
export interface Contestant {
  port: number
  /** What stands before and behind the number of a conversation in its path, and the token that goes with it. */
  path: [string, string]
  token: string
  /** Sends one event to every stream of `/1`; resolves with when. */
  broadcast(): Promise<number>
  probe(order: 'probe' | 'collect' | 'release'): Promise<Probe>
  stop(): Promise<void>
}

export type Client = ReturnType<typeof startClient>

/** The program that holds the other ends of the streams. */
export function startClient(program: string) {
  const { child, tell, line } = startProgram(program, 'client')
  return {
    /** `count` streams over the conversations from 1 to `spread`. */
    async open({ port, path: [prefix, suffix], token }: Contestant, count: number, spread: number) {
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

/** The gateway can also send an event to each of many conversations. */
export interface GatewayContestant extends Contestant {
  tellEach(conversationIds: string[]): Promise<number>
}

export async function openGateway(url: string, scene: Scene): Promise<GatewayContestant> {
  const env = {
    STREAMS_MAX: '20000',
    STREAMS_PER_CONVERSATION_MAX: '10000',
    WORKERS_WARM: '0',
    STREAM_PING_SECONDS: '30',
  }
  const gateway = await startGateway(
    { ...env, DATABASE_URL: url, LOBU_KEY: scene.key, LOG_LEVEL: 'info' },
    { nodeArgs: PROBE },
  )
  const { sql, organizationId } = scene
  const notifier = createNotifier({ sql, log })
  const tellEach = async (conversationIds: string[]) => {
    const events = `tool-use ${JSON.stringify({ text: TEXT })}`
    await sql`
      insert into thread_response (organization_id, conversation_id, event_count, events)
      select ${organizationId}, name, 1, ${events} from unnest(${conversationIds}::text[]) as x (name)`
    let at = 0
    for (let seen = PAGE; seen === PAGE; ) {
      const pass = await publishReplies(sql, { rowsMax: PAGE, afterId: 0 })
      at ||= sharedNow()
      seen = pass.seen
      for (const payload of encodeHints(pass.published)) notifier.ring('lobu_events', payload)
    }
    return at
  }
  return {
    port: Number(new URL(gateway.url).port),
    path: ['/api/v1/agents/conv_', '/events'],
    token: scene.key,
    probe: (order) => askProbe(gateway.process, order),
    broadcast: () => tellEach(['conv_1']),
    tellEach,
    stop: gateway.stop,
  }
}

export async function forkPeer(kind: string): Promise<Contestant> {
  const child = fork(join(import.meta.dirname, 'sse-peer.ts'), [kind], { execArgv: PROBE })
  const [{ port }] = (await once(child, 'message')) as [{ port: number }]
  return {
    ...{ port, path: ['/', '/'] as [string, string], token: '' },
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
export async function spawnFloor(program: string): Promise<Contestant> {
  const { child, tell, line } = startProgram(program, 'floor')
  const port = Number(await line())
  let cpuUs = 0
  return {
    ...{ port, path: ['/', '/'] as [string, string], token: '' },
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
