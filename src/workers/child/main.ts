/**
 * A worker: one process that answers one conversation, turn after turn, and knows nobody but its gateway.
 * Usage: `main.js [provider]`, with the gateway on descriptor 3; or `main.js --prime` to fill the compile cache.
 */
import { flushCompileCache } from 'node:module'
import { BEAT_MS, type Command, GATEWAY_FD, type TurnCommand } from '../protocol.ts'
import { type AgentDeps, runTurn } from './agent-loop.ts'
import { type GatewayLink, openGatewayLink } from './gateway-link.ts'
import { createModels, PROVIDERS, type ProviderId } from './models.ts'
import { createTools } from './tools.ts'
import { warmUp } from './warm-up.ts'

/** Time for a turn to arrive before the worker warms up: a turn that waits goes first. */
const QUIET_MS = 10

// Its warnings are about the caller's use of the library, and go to standard output.
globalThis.AI_SDK_LOG_WARNINGS = false

const argument = process.argv[2]
if (argument === '--prime') await prime()
else await serve(PROVIDERS.find((provider) => provider === argument))

/** Loads and runs all that a worker may need, so that its compiled form is in the cache of this process. */
async function prime() {
  for (const provider of PROVIDERS) {
    if (!(await warmUp(provider, { signal: AbortSignal.timeout(10_000) }))) process.exitCode = 1
  }
  flushCompileCache()
}

async function serve(provider: ProviderId | undefined) {
  // Ctrl-C in a terminal is for the gateway, which stops its workers in order.
  process.on('SIGINT', () => {})
  const turns = { current: undefined as { runId: string; abort: AbortController } | undefined }
  const link = openGatewayLink({ fd: GATEWAY_FD, onCommand, onClose: leave })
  const deps: AgentDeps = { link, models: createModels(link.fetch), tools: createTools() }
  if (provider) await deps.models.load(provider, 'preload')
  link.report({ type: 'ready' })
  const quiet = new AbortController()
  if (provider) setTimeout(warmUpQuietly, QUIET_MS, provider)

  function warmUpQuietly(idle: ProviderId) {
    if (!quiet.signal.aborted) void warmUp(idle, { signal: quiet.signal, fetch: link.fetch })
  }

  function onCommand(command: Command) {
    if (command.type === 'exit') process.exit(0)
    if (command.type === 'cancel') {
      if (turns.current?.runId === command.runId) turns.current.abort.abort()
      return
    }
    quiet.abort()
    const abort = new AbortController()
    turns.current = { runId: command.runId, abort }
    serveTurn({ ...deps, link }, command, abort.signal).finally(() => {
      turns.current = undefined
    })
  }
}

async function serveTurn(deps: AgentDeps & { link: GatewayLink }, turn: TurnCommand, signal: AbortSignal) {
  const { runId, fence, traceparent } = turn
  deps.link.setRun({ runId, fence, traceparent })
  const beat = setInterval(() => deps.link.report({ type: 'beat', runId, fence }), BEAT_MS)
  const outcome = await runTurn(deps, turn, signal)
  clearInterval(beat)
  deps.link.setRun(undefined)
  deps.link.report({ type: 'end', runId, fence, ...outcome })
}

/** The gateway is gone. Nobody will read another word, and whatever this process has started must not outlive it. */
function leave() {
  try {
    process.kill(-process.pid, 'SIGKILL')
  } catch {
    // Not the leader of a group: started by hand.
  }
  process.exit(0)
}
