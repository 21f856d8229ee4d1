import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { inspectConfig } from '../config.ts'
import { checkDisk, checkMemory } from './machine.ts'

const GIB = 1024 ** 3
const configOf = (env: Record<string, string> = {}) => inspectConfig(env).config

test('the workers follow from the memory, and too many of them are pointed out', () => {
  expect(checkMemory(configOf(), 4 * GIB)).toMatchObject({
    state: 'ok',
    detail: expect.stringContaining('at most 64 workers'),
  })
  expect(checkMemory(configOf(), GIB)).toMatchObject({
    state: 'warn',
    fix: expect.stringMatching(/^give the gateway \d+ MiB/),
  })
  const tooMany = checkMemory(configOf({ WORKERS_MAX: '100' }), 4 * GIB)
  expect(tooMany).toMatchObject({ state: 'warn', fix: 'set WORKERS_MAX to 64 or raise the limit to 5824 MiB' })
  expect(checkMemory(configOf({ WORKERS_MAX: '10' }), 4 * GIB)).toMatchObject({ state: 'ok' })
})

test('a data folder must be writable where something is kept in it, and need not be there yet', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'lobu-machine-'))
  const file = join(dir, 'file')
  await writeFile(file, '')
  const states = async (env: Record<string, string>) => (await checkDisk(configOf(env))).map(({ state }) => state)
  expect(await states({ LOBU_DATA_DIR: join(dir, 'made/later') })).toEqual(['ok', 'ok'])
  expect(await states({ LOBU_DATA_DIR: join(file, 'data') })).toEqual(['ok', 'fail'])
  const outside = { DATABASE_URL: 'postgres://db/lobu', JWT_SECRET: 'x', BETTER_AUTH_SECRET: 'y' }
  expect(await states({ ...outside, LOBU_DATA_DIR: join(file, 'data') })).toEqual(['ok', 'ok'])
  await rm(dir, { recursive: true })
})
