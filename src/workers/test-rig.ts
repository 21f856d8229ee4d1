import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ModelMessage } from 'ai'
import { createLogger } from '../lib/logger.ts'
import { createProcessLauncher, type Launcher } from './launcher.ts'
import { createWorkerPool, type WorkerPoolOptions } from './pool.ts'
import type { StepRecord, TurnCommand } from './protocol.ts'
import type { TurnEnd, TurnHandlers, WorkerRequests } from './turn.ts'

/** The worker as it is in the sources, so that tests need no build. */
export const SOURCE_ENTRY = join(import.meta.dirname, 'child', 'main.ts')

export const log = createLogger({ level: 'silent', pretty: false })

/** Resolves when `isTrue` is, looking often. For states outside of this process; the test's time limit bounds it. */
export async function until(isTrue: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isTrue())) await new Promise((resolve) => setTimeout(resolve, 10))
}

/** A process is there and not a zombie. */
export function isAlive(pid: number): boolean {
  if (!existsSync(`/proc/${pid}/stat`)) return false
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Lines that make a script speak the worker's side of the protocol: `say(report)`, `onCommand`, `request(path, body)`. */
export const SPEAKS = `
  import http2 from 'node:http2'
  import net from 'node:net'
  const socket = new net.Socket({ fd: 3 })
  const h2 = http2.connect('http://gateway', { createConnection: () => socket })
  const open = (path, headers = {}) => h2.request({ ':method': 'POST', ':path': path, ':authority': 'gateway', ...headers }, { endStream: false })
  const session = open('/session')
  const say = (report) => session.write(JSON.stringify(report) + '\\n')
  let onCommand = () => {}
  session.on('data', (data) => data.toString().split('\\n').filter(Boolean).forEach((line) => onCommand(JSON.parse(line))))
`

/** The rest of a worker that ends each turn as soon as it gets it. */
export const ANSWERS_AT_ONCE = `
  const usage = { inputTokens: 1, outputTokens: 2, cachedInputTokens: 0 }
  onCommand = ({ type, runId, fence }) => {
    if (type === 'exit') process.exit(0)
    if (type === 'turn') say({ type: 'end', runId, fence, status: 'completed', usage })
  }
  say({ type: 'ready' })
`

/** Writes a script that stands in for the worker, or the gateway, and returns its path. */
export function createScripts() {
  const dir = mkdtempSync(join(tmpdir(), 'lobu-test-'))
  let count = 0
  return {
    dir,
    write(source: string, extension = 'mjs'): string {
      const file = join(dir, `script-${++count}.${extension}`)
      writeFileSync(file, source)
      return file
    },
    remove: () => rmSync(dir, { recursive: true, force: true }),
  }
}

export interface ModelCall {
  path: string
  headers: Record<string, unknown>
  messages: { role: string; content: unknown; tool_calls?: unknown[] }[]
  body: Record<string, unknown>
  res: Http2ServerResponse
  /** Sends one piece of text. */
  say(text: string): void
  callTool(name: string, input: unknown): void
  finish(reason?: string): void
}

/** A model that speaks OpenAI's chat completions, and plays what `play` says for each call. */
export function createFakeModel(play: (call: ModelCall) => void | Promise<void>) {
  const calls: ModelCall[] = []
  const model: WorkerRequests['model'] = async (req: Http2ServerRequest, res: Http2ServerResponse, args) => {
    const chunks: Buffer[] = []
    for await (const chunk of req) chunks.push(chunk as Buffer)
    const body = JSON.parse(Buffer.concat(chunks).toString()) as Record<string, unknown>
    const call = { path: args.path, headers: req.headers, body, messages: body.messages, res } as ModelCall
    const send = (delta: object, finish: string | null = null, usage?: object) => {
      if (!res.headersSent) res.writeHead(200, { 'content-type': 'text/event-stream' })
      const choice = { index: 0, delta, finish_reason: finish }
      const chunk = { id: 'c', created: 0, model: 'm', choices: [choice], ...(usage ? { usage } : {}) }
      res.write(`data: ${JSON.stringify(chunk)}\n\n`)
    }
    call.say = (text) => send({ role: 'assistant', content: text })
    call.callTool = (name, input) => {
      const asked = { index: 0, id: `call-${calls.length}`, type: 'function' }
      send({ tool_calls: [{ ...asked, function: { name, arguments: JSON.stringify(input) } }] })
    }
    call.finish = (reason = 'stop') => {
      send({}, reason, { prompt_tokens: 10, completion_tokens: 5, prompt_tokens_details: { cached_tokens: 4 } })
      res.end('data: [DONE]\n\n')
    }
    calls.push(call)
    await play(call)
  }
  return { model, calls }
}

/** Answers every call with these words. */
export function saying(...words: string[]) {
  return createFakeModel((call) => {
    for (const word of words) call.say(word)
    call.finish()
  })
}

export interface RigOptions extends Partial<WorkerPoolOptions> {
  entry?: string
  args?: string[]
  requests?: Partial<WorkerRequests>
  launcher?: Launcher
}

/** A started pool with real processes; everything else of the gateway is in `requests`. */
export async function startRig(options: RigOptions = {}) {
  const { entry = SOURCE_ENTRY, args = [], requests, launcher: given, ...settings } = options
  const steps: StepRecord[] = []
  const memoryMb = settings.memoryMb ?? 512
  let launches = 0
  const pids: number[] = []
  let mostAlive = 0
  const launcher = given ?? createProcessLauncher({ log }, { entry, args, memoryMb, cacheDirs: [] })
  const recording: Launcher = {
    ...launcher,
    launch() {
      launches++
      const one = launcher.launch()
      void one.started.then((process) => {
        if (process) pids.push(process.pid)
        mostAlive = Math.max(mostAlive, pids.filter(isAlive).length)
      })
      return one
    },
  }
  const pool = createWorkerPool(
    {
      launcher: recording,
      log,
      requests: {
        async saveStep(step) {
          steps.push(step)
          return 'saved'
        },
        takeSteer: async () => [],
        model: saying('Hello').model,
        ...requests,
      },
    },
    { warm: 0, max: 4, busyMax: 4, idleMs: 60_000, startMs: 20_000, silenceMs: 20_000, memoryMb, ...settings },
  )
  await pool.start()
  return { pool, steps, launches: () => launches, pids: () => [...pids], mostAlive: () => mostAlive }
}

export function turnOf(args: Partial<TurnCommand> = {}): TurnCommand {
  const messages: ModelMessage[] = [{ role: 'user', content: 'Hi' }]
  return {
    type: 'turn',
    runId: crypto.randomUUID(),
    fence: 1,
    model: { provider: 'demo', modelId: 'demo' },
    instructions: 'You are a test.',
    messages,
    partialText: '',
    limits: { stepsMax: 5, outputTokensMax: 100 },
    ...args,
  }
}

/** Collects what a turn says, and lets a test wait for it. */
export function createListener() {
  const heard = { text: '', tools: [] as string[], beats: 0 }
  const on: TurnHandlers = {
    onDelta(text) {
      heard.text += text
    },
    onTool({ name, phase }) {
      heard.tools.push(`${name} ${phase}`)
    },
    onBeat() {
      heard.beats++
    },
  }
  return Object.assign(heard, { on })
}

/** Runs a turn to its end. */
export async function runTurn(
  rig: Awaited<ReturnType<typeof startRig>>,
  args: { key?: string; turn?: Partial<TurnCommand>; signal?: AbortSignal } = {},
): Promise<{ end: TurnEnd; heard: ReturnType<typeof createListener> }> {
  const heard = createListener()
  const signal = args.signal ?? new AbortController().signal
  const end = await rig.pool.runTurn({ key: args.key ?? 'org/conv', turn: turnOf(args.turn), on: heard.on, signal })
  return { end, heard }
}
