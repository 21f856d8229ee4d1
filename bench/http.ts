/**
 * The built gateway by HTTP as clients see it, with an API key, row-level security and its access log: POST /messages against a
 * bare Hono handler that does one INSERT, and the CPU of a small POST against node:http with zod. The messages join runs that
 * wait, so that no worker takes part.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Pool } from 'undici'
import { processCpuUs } from './processes.ts'
import { createScene } from './scene.ts'
import { inRounds, median, ROUNDS, rate, scaled, startGateway, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const POSTS = scaled(3_000)
const SMALL = scaled(5_000)
const CALLERS = 16
const CONVERSATIONS = 200
const CONTENT = 'x'.repeat(140)

interface Target {
  pid: number
  /** One request; @throws Error when its answer is another than expected. */
  send(index: number): Promise<void>
  stop(): Promise<void>
}

export function benchHttp(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const scene = await createScene(url)
    await scene.sql`
      create table bench_messages (id bigint generated always as identity primary key, conversation_id text not null,
        content text not null, created_at timestamptz not null default now())`
    const names = (await scene.held(CONVERSATIONS)).map((run) => run.conversationId)
    const gateway = await startGateway({
      ...{
        DATABASE_URL: url,
        LOBU_KEY: scene.key,
        WORKERS_WARM: '0',
        QUEUE_DEPTH_MAX: '10000',
        ORG_QUEUE_MAX: '100000',
      },
    })
    const paths = names.map((name) => `/api/v1/agents/${name}/messages`)
    const common = { pid: gateway.pid, token: scene.key, paths }
    const posts = target(gateway.url, { ...common, body: { content: CONTENT }, status: 200 })
    // A message of nothing but blanks gets through authentication, rates and validation, and is refused by the handler.
    const small = target(gateway.url, { ...common, body: { content: ' '.repeat(140) }, status: 400 })
    const hono = await forkPeer('hono', url)
    const node = await forkPeer('node', url)
    const cpu = { ours: [] as number[], hono: [] as number[] }
    const perSecond = (one: Target, into: number[]) => async () => {
      const before = processCpuUs(one.pid)
      const found = await rate(POSTS, CALLERS, one.send)
      into.push((processCpuUs(one.pid) - before) / POSTS)
      return found
    }
    const found = await inRounds(ROUNDS, { ours: perSecond(posts, cpu.ours), hono: perSecond(hono, cpu.hono) })
    const cost = await inRounds(ROUNDS, { ours: () => cpuPerCall(small), node: () => cpuPerCall(node) })
    for (const one of [posts, small, hono, node]) await one.stop()
    await gateway.stop()
    await scene.close()
    const bare = 'a bare Hono handler with one INSERT'
    return [
      {
        ...{
          name: `POST /messages, ${CALLERS} callers, authenticated, behind row-level security`,
          ours: found.ours,
          unit: '/s',
        },
        ...{ peer: { name: bare, value: found.hono }, goal: '≥ 0.6×' },
      },
      {
        ...{ name: 'CPU of the server for each of them', ours: median(cpu.ours), unit: 'µs' },
        peer: { name: bare, value: median(cpu.hono) },
      },
      {
        ...{
          name: 'CPU of a small authenticated POST without database',
          ours: cost.ours,
          unit: 'µs',
          goal: '≤ 2× (≤ 1.6×)',
        },
        ...{
          peer: { name: 'node:http with zod', value: cost.node },
          note: 'ours ends in an error of the handler, and is logged',
        },
      },
    ]
  })
}

async function cpuPerCall(one: Target): Promise<number> {
  const before = processCpuUs(one.pid)
  await rate(SMALL, CALLERS, one.send)
  return (processCpuUs(one.pid) - before) / SMALL
}

function target(
  origin: string,
  args: { pid: number; token: string; paths: string[]; body: unknown; status: number; stop?: () => Promise<void> },
): Target {
  const pool = new Pool(origin, { connections: CALLERS })
  const body = JSON.stringify(args.body)
  const headers = {
    'content-type': 'application/json',
    ...(args.token ? { authorization: `Bearer ${args.token}` } : {}),
  }
  return {
    pid: args.pid,
    async send(index) {
      const path = args.paths[index % args.paths.length]!
      const { statusCode, body: answer } = await pool.request({ method: 'POST', path, headers, body })
      const text = await answer.text()
      if (statusCode !== args.status) throw new Error(`POST ${path}: ${statusCode} ${text}`)
    },
    async stop() {
      await pool.close()
      await args.stop?.()
    },
  }
}

async function forkPeer(kind: string, url: string): Promise<Target> {
  const child = fork(join(import.meta.dirname, 'http-peer.ts'), [kind, url])
  const [{ port }] = (await once(child, 'message')) as [{ port: number }]
  return target(`http://127.0.0.1:${port}`, {
    ...{ pid: child.pid!, token: '', paths: ['/conv_1', '/conv_2'], body: { content: CONTENT }, status: 200 },
    async stop() {
      child.disconnect()
      await once(child, 'exit')
    },
  })
}
