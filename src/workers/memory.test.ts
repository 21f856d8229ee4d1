import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { defaultBusyMax, defaultWorkersMax, memoryLimitBytes, residentMb, threadLimit } from './memory.ts'

const GIB = 1024 ** 3
const ENDLESS = Number.POSITIVE_INFINITY

/** A file system with just these files. */
async function machine(files: Record<string, string>): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'lobu-cgroup-'))
  onTestFinished(() => rm(root, { recursive: true }))
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, name)), { recursive: true })
    await writeFile(join(root, name), text)
  }
  return root
}

test('the number of workers follows the memory, and the threads where these end sooner', () => {
  expect(defaultWorkersMax(0.5 * GIB, ENDLESS)).toBe(2)
  expect(defaultWorkersMax(2 * GIB, ENDLESS)).toBe(21)
  expect(defaultWorkersMax(64 * GIB, ENDLESS)).toBe(1344)
  expect(defaultWorkersMax(64 * GIB, 1064)).toBe(62)
  expect(defaultWorkersMax(64 * GIB, 10)).toBe(2)
  expect(defaultBusyMax() % 25).toBe(0)
})

describe('the memory that counts is', () => {
  test('the limit of the container, cgroup 2', async () => {
    const root = await machine({ 'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/memory.max': '268435456\n' })
    expect(memoryLimitBytes(root)).toBe(268_435_456)
  })

  test('the limit of the container, cgroup 1', async () => {
    const root = await machine({
      'proc/self/cgroup': '9:memory:/\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n',
      'sys/fs/cgroup/memory/memory.limit_in_bytes': '134217728\n',
    })
    expect(memoryLimitBytes(root)).toBe(134_217_728)
  })

  test('the least of all groups above the own one, where nobody hides them', async () => {
    const own = 'system.slice/lobu.service'
    const root = await machine({
      'proc/self/cgroup': `0::/${own}\n`,
      [`sys/fs/cgroup/${own}/memory.max`]: 'max\n',
      [`sys/fs/cgroup/${own}/pids.max`]: '4000\n',
      'sys/fs/cgroup/system.slice/memory.max': '536870912\n',
      'sys/fs/cgroup/system.slice/pids.max': '500\n',
    })
    expect(memoryLimitBytes(root)).toBe(536_870_912)
    expect(threadLimit(root)).toBe(500)
    expect(defaultWorkersMax(8 * GIB, threadLimit(root))).toBe(27)
  })

  test('that of cgroup 1 with the path as the host knows it, which the container does not see', async () => {
    const root = await machine({
      'proc/self/cgroup': '9:memory:/kubepods/pod1/abc\n8:pids:/kubepods/pod1/abc\n',
      'sys/fs/cgroup/memory/memory.limit_in_bytes': '1073741824\n',
      'sys/fs/cgroup/pids/pids.max': '300\n',
    })
    expect(memoryLimitBytes(root)).toBe(GIB)
    expect(threadLimit(root)).toBe(300)
  })

  test('that of the machine, where there is no limit or a limit above it', async () => {
    for (const limit of ['max', '9223372036854771712', 'nonsense']) {
      const root = await machine({ 'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/memory.max': limit })
      expect(memoryLimitBytes(root)).toBe(totalmem())
    }
    const root = await machine({})
    expect(memoryLimitBytes(root)).toBe(totalmem())
    expect(threadLimit(root)).toBe(ENDLESS)
  })

  test('more than nothing here', () => {
    expect(memoryLimitBytes()).toBeGreaterThan(100e6)
    expect(threadLimit()).toBeGreaterThan(100)
  })
})

test('the memory of a process is known while it lives', async () => {
  const mib = await residentMb(process.pid)
  expect(mib).toBeCloseTo(process.memoryUsage().rss / 1024 / 1024, -2)
  expect(await residentMb(2 ** 22 + 1)).toBeUndefined()
})
