/**
 * What an idle event stream costs, and one event to many of them: the built gateway with authentication and row-level security,
 * bare node:http, better-sse, and a loop of writes in C as the floor. The clients are a program in C. The event for the
 * gateway comes from another replica, so its time includes a notification and the tail. At last a gateway alone, with as many
 * streams as it must carry.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { descriptorsMax } from './processes.ts'
import { createScene, type Scene } from './scene.ts'
import { type Client, type Contestant, forkPeer, openGateway, spawnFloor, startClient } from './sse-contestants.ts'
import { isQuick, median, pause, scaled, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const STREAMS = scaled(5_000)
/** Of the gateway alone. */
const STALL_STREAMS = scaled(10_000)
const MOST_STREAMS = scaled(20_000)
/** What a process has open besides its streams. */
const OTHER_DESCRIPTORS = 150
const BROADCASTS = isQuick ? 3 : 12
/** The first ones only warm up. */
const WARM_UPS = isQuick ? 0 : 2

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
    return await withDatabase(async (url) => {
      const scene = await createScene(url, { poolMax: 2 })
      const names = await scene.conversations(MOST_STREAMS)
      const rows = [...(await compare(program, url, scene)), ...(await openMost(program, url, { scene, names }))]
      await scene.close()
      return rows
    })
  } finally {
    rmSync(dir, { recursive: true })
  }
}

async function compare(program: string, url: string, scene: Scene): Promise<Row[]> {
  const makers = {
    ours: () => openGateway(url, scene),
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
      for (const [name, opened] of open)
        await broadcast(opened, { streams: STREAMS, into: found[name], isWarm: n >= WARM_UPS })
    }
    const ours = open.get('ours')!
    await ours.client.open(ours.server, STALL_STREAMS - STREAMS, 1)
    await pause(1_000)
    const many = nothing()
    found.ours.stallMs = many.stallMs
    for (let n = 0; n < BROADCASTS; n++)
      await broadcast(ours, { streams: STALL_STREAMS, into: many, isWarm: n >= WARM_UPS })
  } finally {
    for (const { server, client } of open.values()) {
      await client.stop()
      await server.stop()
    }
  }
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
  const stalls = found.ours.stallMs.toSorted((a, b) => a - b)
  const [bare, better, floor] = [
    ['bare', 'bare node:http'],
    ['betterSse', 'better-sse'],
    ['floor', 'a loop in C'],
  ] as [Name, string][]
  return [
    {
      ...row(`memory of an idle stream, ${streams} of them`, 'idle', 'KiB', bare!, '≤ 1.2×; ≤ 22 KiB (≤ 1.05×)'),
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
      name: `longest stall of the loop in ${stalls.length} broadcasts to ${STALL_STREAMS.toLocaleString('en')} streams`,
      ...{ ours: Math.max(...stalls), unit: 'ms', goal: '≤ 25 ms (≤ 10 ms)' },
      note: `the longest of all; of each broadcast, in ascending order: ${stalls.map(Math.round).join(', ')} ms`,
    },
  ]
}

/** KiB of resident memory for each stream of `STREAMS`, each of a conversation of its own; leaves as many open in one. */
async function idleKib({ server, client }: Opened, order: 'collect' | 'release'): Promise<number> {
  await client.open(server, Math.min(200, STREAMS), STREAMS)
  await client.close()
  await pause(500)
  const before = await server.probe(order)
  await client.open(server, STREAMS, STREAMS)
  await pause(1_000)
  const after = await server.probe(order)
  await client.close()
  await pause(1_000)
  await client.open(server, STREAMS, 1)
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
  if (!isWarm) return
  into.lastMs.push(lastAt - startedAt)
  into.cpuUs.push((after.cpuUs - cpuUs) / streams)
  into.stallMs.push(after.stallMs)
}

/** As many streams as a replica is to carry, each of a conversation of its own, and an event in each to see that all are served. */
async function openMost(
  program: string,
  url: string,
  { scene, names }: { scene: Scene; names: string[] },
): Promise<Row[]> {
  const count = Math.min(MOST_STREAMS, descriptorsMax() - OTHER_DESCRIPTORS)
  const client = startClient(program)
  const gateway = await openGateway(url, scene)
  await client.open(gateway, count, count)
  await pause(1_000)
  const { rss } = await gateway.probe('collect')
  const done = await client.expect(count)
  const startedAt = await gateway.tellEach(names.slice(0, count))
  const lastAt = await done()
  await client.stop()
  await gateway.stop()
  const bound = `no more, since a process of this machine may have ${descriptorsMax().toLocaleString('en')} descriptors; `
  return [
    {
      ...{ name: 'streams open on one replica at once, each of its own conversation', ours: count, unit: 'streams' },
      ...{
        goal: `≥ ${MOST_STREAMS.toLocaleString('en')}`,
        note: `${count < MOST_STREAMS ? bound : ''}an event in each of them arrived`,
      },
    },
    { name: 'resident memory of the gateway with them', ours: rss / 1024 ** 2, unit: 'MB' },
    { name: 'from the first of these events to the last byte', ours: lastAt - startedAt, unit: 'ms' },
  ]
}
