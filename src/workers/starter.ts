import type { Logger } from '../lib/logger.ts'
import { createProcessGroups } from './groups.ts'
import { UNGUARDED } from './guard.ts'
import { createWorkerFolders, failedLaunch, type LaunchedProcess, type Starter, superviseLaunch } from './launched.ts'
import { openSpawner, type Spawner } from './spawner.ts'

/** After a spawner could not be started, the next try waits this long: each costs what it is to save. */
const RETRY_MS = 60_000

/**
 * Starts processes through a spawner, and through a new one when that has died. Where none can be had (on Windows, which
 * cannot hand over pipes; without memory or descriptors for one more process) it starts them itself, and the log says so.
 */
export async function createStarter({ log }: { log: Logger }): Promise<Starter> {
  let spawner: Spawner | undefined
  let opening: Promise<Starter> | undefined
  let direct: Starter | undefined
  let notBefore = process.platform === 'win32' ? Number.POSITIVE_INFINITY : 0

  function choose(): Starter | Promise<Starter> {
    if (spawner?.isRunning()) return spawner
    if (performance.now() < notBefore) return chooseDirect()
    opening ??= open().finally(() => {
      opening = undefined
    })
    return opening
  }

  async function open(): Promise<Starter> {
    try {
      spawner = await openSpawner({ log })
      return spawner
    } catch (error) {
      notBefore = performance.now() + RETRY_MS
      const err = error instanceof Error ? error.message : String(error)
      log.warn({ err }, 'no spawner: the gateway starts workers itself, and stands still meanwhile')
      return chooseDirect()
    }
  }

  function chooseDirect(): Starter {
    direct ??= createDirectStarter({ log })
    return direct
  }

  await choose()
  return {
    start(spec) {
      try {
        const starter = choose()
        return 'then' in starter ? launchLater(starter, spec) : starter.start(spec)
      } catch (error) {
        return failedLaunch(error)
      }
    },
    async stop() {
      await opening?.catch(() => {})
      await Promise.all([spawner?.stop(), direct?.stop()])
    },
  }
}

function launchLater(starter: Promise<Starter>, spec: Parameters<Starter['start']>[0]): LaunchedProcess {
  let launched: LaunchedProcess | undefined
  let asked: Parameters<LaunchedProcess['signal']>[0] | undefined
  const launching = starter.then((one) => one.start(spec)).catch(failedLaunch)
  void launching.then((one) => {
    launched = one
    if (asked) one.signal(asked)
  })
  return {
    started: launching.then((one) => one.started),
    exited: launching.then((one) => one.exited),
    signal(signal) {
      asked = signal
      launched?.signal(signal)
    },
  }
}

/** As children of this very process. */
function createDirectStarter({ log }: { log: Logger }): Starter {
  const folders = createWorkerFolders()
  const groups = createProcessGroups({ onUnguarded: (err) => log.warn({ err }, UNGUARDED) }, { dir: folders.dir })
  return {
    start(spec) {
      try {
        const cwd = folders.make()
        const { running, ended, signal } = groups.start({ ...spec, cwd })
        const started = running && { pid: running.pid, ...running.streams }
        return superviseLaunch({ started: Promise.resolve(started), exited: ended, signal }, cwd)
      } catch (error) {
        return failedLaunch(error)
      }
    },
    async stop() {
      await groups.stop()
      await folders.removeAll()
    },
  }
}
