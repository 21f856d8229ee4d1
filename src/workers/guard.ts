import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { settlesWithin } from '../lib/settles-within.ts'

const STOP_MS = 2000

/** For the log. */
export const UNGUARDED = 'no shell to guard worker processes; they may outlive a killed gateway'

/**
 * Reads "add <group>" and "del <group>" from its standard input. At the end of input, which comes when its parent has
 * closed it or is dead in whatever way, it kills the groups that are left and removes the folder.
 */
const SCRIPT = `
trap '' HUP INT TERM
groups=' '
while read -r verb group; do
  case $verb in
    add) groups="$groups$group " ;;
    del) groups="\${groups%% $group *} \${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
rm -rf -- "$1"
`

/** Kills process groups that outlive this process, even when it is killed itself. */
export interface Guard {
  add(group: number): void
  remove(group: number): void
  /** Kills what is left, removes the folder, and returns when the guard has ended. */
  stop(): Promise<void>
}

/**
 * A shell of about one megabyte that waits for our death. PDEATHSIG ends a worker with its gateway but not what the
 * worker has started, and exists on Linux only; a worker that spins can't see its socket close. Without `sh` (or on
 * Windows) there is no guard, and the parent is told so once. It belongs to whoever starts the processes, so that it also kills
 * what a spawner leaves, at once and without the gateway, which may be held up until their numbers are somebody else's.
 */
export function createGuard({ onUnguarded }: { onUnguarded(reason: string): void }, { dir }: { dir: string }): Guard {
  const groups = new Set<number>()
  let shell: ChildProcess | undefined
  let missing = process.platform === 'win32'

  function open() {
    try {
      openShell()
    } catch (error) {
      // Some errors, such as a lack of memory, are thrown. The next worker tries again.
      onUnguarded(error instanceof Error ? error.message : String(error))
    }
  }

  function openShell() {
    const child = spawn('sh', ['-c', SCRIPT, 'lobu-guard', dir], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
      env: { PATH: '/usr/bin:/bin' },
      cwd: '/',
    })
    // Absent where there was no descriptor left for it.
    child.stdin?.on('error', () => {})
    child.on('error', (error: NodeJS.ErrnoException) => {
      if (shell === child) shell = undefined
      // Anything else, such as a lack of descriptors, passes: the next worker tries again.
      missing = error.code === 'ENOENT'
      onUnguarded(error.message)
    })
    child.once('exit', () => {
      if (shell === child) shell = undefined
    })
    shell = child
    for (const group of groups) tell('add', group)
  }

  function tell(verb: 'add' | 'del', group: number) {
    shell?.stdin?.write(`${verb} ${group}\n`)
  }

  return {
    add(group) {
      groups.add(group)
      if (missing) return
      if (shell) tell('add', group)
      else open()
    },
    remove(group) {
      if (groups.delete(group)) tell('del', group)
    },
    async stop() {
      const child = shell
      if (!child || child.pid === undefined) return
      child.stdin?.end()
      if (!(await settlesWithin(once(child, 'exit'), STOP_MS))) child.kill('SIGKILL')
    },
  }
}
