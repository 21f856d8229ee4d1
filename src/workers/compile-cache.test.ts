import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { findCompileCache, primeCompileCache } from './compile-cache.ts'
import { createScripts } from './test-rig.ts'

const scripts = createScripts()
afterAll(scripts.remove)

/** Leaves a trace of each run that fills the cache. */
const WORKER = `
  import { appendFileSync } from 'node:fs'
  if (process.argv[2] === '--prime') appendFileSync(import.meta.filename + '.runs', 'x')
`
const runs = (entry: string) => readFileSync(`${entry}.runs`, 'utf8').length

it('is filled once, in the first folder that can be written, and found from then on', async () => {
  const entry = scripts.write(WORKER)
  const file = join(scripts.dir, 'a-file')
  writeFileSync(file, '')
  const dirs = [join(file, 'cache'), join(scripts.dir, 'cache')]
  expect(await findCompileCache({ entry, dirs })).toBe(dirs[1])
  expect(readdirSync(dirs[1]!).some((name) => name.startsWith('v'))).toBe(true)
  expect(await findCompileCache({ entry, dirs })).toBe(dirs[1])
  expect(runs(entry)).toBe(1)
})

it('of another build is filled anew', async () => {
  const entry = scripts.write(WORKER)
  const dir = join(scripts.dir, 'builds')
  await primeCompileCache({ entry, dir })
  const [before] = readdirSync(dir).filter((name) => name.startsWith('primed'))
  writeFileSync(entry, `${WORKER}\n// changed`)
  expect(await findCompileCache({ entry, dirs: [dir] })).toBe(dir)
  expect(readdirSync(dir)).not.toContain(before)
})

it('is done without when the worker can not be run', async () => {
  const entry = scripts.write('process.exit(1)')
  expect(await findCompileCache({ entry, dirs: [join(scripts.dir, 'none')] })).toBeUndefined()
})
