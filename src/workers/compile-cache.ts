import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const PRIME_MS = 30_000

/**
 * The first of `dirs` that holds, or can be given, the compiled form of the worker at `entry`; undefined when none can.
 * A worker with it starts in about half the time.
 *
 * The cache is filled here, before any worker runs, with everything that a worker loads, so that workers find it
 * complete and write nothing. It is not a wall: a hostile worker under our own user could write it, as it could write
 * the program itself. Isolation that holds must give workers the folder read-only.
 * https://nodejs.org/docs/latest-v24.x/api/module.html#module-compile-cache
 */
export async function findCompileCache(args: { entry: string; dirs: string[] }): Promise<string | undefined> {
  const marker = await markerName(args.entry)
  const primed = args.dirs.find((dir) => existsSync(join(dir, marker)))
  if (primed !== undefined) return primed
  for (const dir of args.dirs) if (await primeCompileCache({ entry: args.entry, dir })) return dir
  return undefined
}

/** Fills `dir` anew by one run of the worker that loads all and serves nobody. False when that is not possible. */
export async function primeCompileCache(args: { entry: string; dir: string }): Promise<boolean> {
  try {
    await rm(args.dir, { recursive: true, force: true })
    await mkdir(args.dir, { recursive: true })
    const env = { NODE_COMPILE_CACHE: args.dir }
    await promisify(execFile)(process.execPath, [args.entry, '--prime'], { env, timeout: PRIME_MS })
    await writeFile(join(args.dir, await markerName(args.entry)), '')
    return true
  } catch {
    return false
  }
}

/** Node ties a cache to its version, processor, user and the path of the file; so does this name, and to the build. */
async function markerName(entry: string): Promise<string> {
  const build = await readFile(entry)
  const facts = [process.version, process.arch, process.getuid?.() ?? '', entry].join('\n')
  return `primed-${createHash('sha256').update(facts).update(build).digest('hex').slice(0, 16)}`
}
