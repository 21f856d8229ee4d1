/** A process of a given size that starts workers, for `workers.ts`: tells how long each start has held it up. */
import { join } from 'node:path'
import { builtCacheDir, createProcessLauncher } from '../src/workers/launcher.ts'
import { log, pause } from './support.ts'

const [ballastMb, samples] = process.argv.slice(2).map(Number)
const ballast = Array.from({ length: ballastMb! / 16 }, () => Buffer.alloc(16 * 1024 * 1024, 1))

const entry = join(import.meta.dirname, '../dist/worker/main.js')
const launcher = createProcessLauncher(
  { log },
  { entry, args: ['demo'], memoryMb: 512, cacheDirs: [builtCacheDir(entry)] },
)
await launcher.start()
const blockedMs: number[] = []
for (let sample = 0; sample < samples!; sample++) {
  // All that the loop does for it, though not always in one piece.
  const before = performance.eventLoopUtilization()
  const launched = launcher.launch()
  await launched.started
  await pause(20)
  blockedMs.push(performance.eventLoopUtilization(before).active)
  launched.signal('SIGKILL')
  await launched.exited
}
await launcher.stop()
// Used once more, so that it is there until now.
process.send!({ blockedMs: ballast.length < 0 ? [] : blockedMs })
process.disconnect()
