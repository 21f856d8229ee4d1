/**
 * Preloaded into a server that is measured (`node --expose-gc --import`): tells its parent over IPC what it uses. The channel
 * does not keep the server alive.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'

export interface Probe {
  rss: number
  heapUsed: number
  cpuUs: number
  /** Longest hold-up of the event loop since it was asked before, in milliseconds, beyond the resolution of 1 ms. */
  stallMs: number
}

const delay = monitorEventLoopDelay({ resolution: 1 })
delay.enable()

process.on('message', async (order: string) => {
  if (order !== 'probe' && order !== 'collect' && order !== 'release') return
  // Several times, with turns in between: what one collection frees lets go of more. V8 keeps the room that it needed at
  // most, unless it is told that this is the last resort.
  for (let n = 0; order !== 'probe' && n < 4; n++) {
    gc?.({ type: 'major', execution: 'sync', flavor: order === 'release' ? 'last-resort' : 'regular' })
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  const { user, system } = process.cpuUsage()
  const { rss, heapUsed } = process.memoryUsage()
  process.send!({ rss, heapUsed, cpuUs: user + system, stallMs: delay.max / 1e6 - 1 } satisfies Probe)
  delay.reset()
})
process.channel?.unref()
