/**
 * The program of the spawner: starts processes for a gateway that has grown too large to do so (`spawner.ts`), and hands over
 * its ends of their pipes. It holds nothing worth reading, and ends with the channels to its gateway, however that died;
 * what it had started is killed then.
 */
import type { Socket } from 'node:net'
import { createProcessGroups, type Group, type GroupStreams } from './groups.ts'
import type { SpawnerOrder, SpawnerReport } from './spawner-protocol.ts'

const groups = createProcessGroups(
  { onUnguarded: (reason) => report({ type: 'unguarded', reason }) },
  { dir: process.cwd() },
)
const running = new Map<number, Group>()

/** Reports keep their order, also behind a handle that the gateway has not taken yet. */
function report(message: SpawnerReport, handle?: unknown, onSent = () => {}) {
  // A gateway that is gone hears nothing, and the channel's end says the rest.
  process.send?.(message, handle as never, {}, onSent)
}

/**
 * In the tick in which the stream was made: Node begins to read at its end, and what is read here is lost for the gateway.
 *
 * As the bare handle: a socket that the gateway refuses, for want of a descriptor, would be sent again by Node, and be
 * confirmed twice, which ends this process by an assertion. A bare one is missing there, and the gateway says so.
 */
function handOver(id: number, name: keyof GroupStreams, stream: Socket) {
  const { _handle } = stream as unknown as { _handle: { readStop(): void } }
  _handle.readStop()
  report({ type: 'stream', id, name }, _handle, () => stream.destroy())
}

function start({ id, spec }: Extract<SpawnerOrder, { type: 'start' }>) {
  const group = groups.start(spec)
  running.set(id, group)
  if (group.running) {
    const { pid, streams } = group.running
    for (const name of ['socket', 'stdout', 'stderr'] as const) handOver(id, name, streams[name])
    report({ type: 'started', id, pid })
  }
  void group.ended.then((exit) => {
    running.delete(id)
    report({ type: 'ended', id, exit })
  })
}

process.on('message', (order: SpawnerOrder) => {
  if (order.type === 'start') return start(order)
  running.get(order.id)?.signal(order.signal)
  report({ type: 'signalled' })
})
let isEnding = false
function end() {
  if (isEnding) return
  isEnding = true
  void groups.stop().finally(() => process.exit(0))
}

process.once('disconnect', end)
// Node tells of no disconnection while it waits for a handle to be taken (`internal/child_process`: `_handleQueue`), for ever
// when whoever was to take it is dead. Nothing is ever written here; its end is the gateway's, too.
process.stdin
  .on('error', () => {})
  .once('close', end)
  .resume()
// A manager of services may signal all that belongs to the gateway at once. This one is needed until the workers are gone.
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM', 'SIGUSR1'] as const) process.on(signal, () => {})
report({ type: 'ready' })
