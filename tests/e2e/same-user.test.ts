import { execFile } from 'node:child_process'
import { chmod, copyFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, onTestFinished } from 'vitest'
import { type Cluster, test } from '../support/cluster.ts'
import { type Gateway, isAlive, requireProc, runProgram, until } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('replicas are processes of their own')
requireProc()

test.override('clusterOptions', { replicas: 0, env: { WORKERS_WARM: '1' } })

/** Any that is not root, which may look into everything. */
const USER = '10001'
const isRoot = process.getuid?.() === 0
/** A second start drops what the first one still may. */
const asUser = isRoot
  ? ['setpriv', `--reuid=${USER}`, `--regid=${USER}`, '--clear-groups', '--', 'sh', '-c', 'exec "$0" "$@"']
  : []

/** A copy of Node that this user may run and not read, as the image has it. */
async function unreadableNode(): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-node-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  const node = path.join(dir, 'node')
  await copyFile(process.execPath, node)
  await chmod(node, 0o111)
  await chmod(dir, 0o755)
  return node
}

/** What a program of the same user finds when it looks into these processes: for each place, whether it could be opened. */
async function lookInto(pids: number[]) {
  const script = `
    const fs = require('node:fs')
    const seen = {}
    for (const pid of ${JSON.stringify(pids)}) for (const what of ['environ', 'mem', 'maps', 'fd', 'cwd', 'root', 'auxv']) {
      const name = '/proc/' + pid + '/' + what
      try { what === 'fd' || what === 'cwd' || what === 'root' ? fs.readdirSync(name) : fs.closeSync(fs.openSync(name)); (seen[what] ??= []).push('open') }
      catch (error) { (seen[what] ??= []).push(error.code) }
    }
    console.log(JSON.stringify({ uid: process.getuid(), seen }))`
  const [command, ...args] = [...asUser, process.execPath, '-e', script]
  const { stdout } = await promisify(execFile)(command!, args)
  return JSON.parse(stdout) as { uid: number; seen: Record<string, string[]> }
}

const uidOf = async (pid: number) => Number(/^Uid:\t(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1])

/** Connects where Node's debugger would listen; a debugger of somebody else's would answer with its own process. */
function debuggers(): Promise<string> {
  return new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port: 9229 })
    socket.on('error', () => resolve(''))
    socket.on('data', (data) => {
      socket.destroy()
      resolve(String(data))
    })
    socket.write('GET /json/list HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n')
  })
}

// 44: by a program of Node that the gateway's user may not read, the kernel closes gateway and workers to that user's processes.
test('what runs as the user of the gateway looks neither into it nor into its workers', async ({ cluster }) => {
  const own = isRoot ? ['sh', '-c', `chown ${USER}:${USER} "$TMPDIR" && exec "$0" "$@"`, ...asUser] : []
  const node = await unreadableNode()
  const start = { node: [...own, node] }
  const gateway = await cluster.add({}, start)
  const workers = await workersThatTalk(cluster, gateway)

  const all = [gateway.pid, gateway.spawner()!, ...workers]
  const { uid, seen } = await lookInto(all)
  expect(await Promise.all(all.map(uidOf))).toEqual(all.map(() => uid))
  for (const [what, answers] of Object.entries(seen)) expect(new Set(answers), what).toEqual(new Set(['EACCES']))
  expect((await runProgram(['doctor'], cluster.env, start)).stdout).toMatch(/^ok +privacy /m)
  // All that the gateway does for its workers works without looking into them.
  for (const pid of workers) expect(Number(await readFile(`/proc/${pid}/oom_score_adj`, 'utf8'))).toBe(800)
  gateway.signal('SIGKILL')
  await gateway.exited
  await until(() => !all.some(isAlive), 'its workers are gone with it')
})

// 44
test('a signal opens no debugger in the gateway, nor in a worker', async ({ cluster }) => {
  const gateway = await cluster.add()
  const workers = await workersThatTalk(cluster, gateway)
  for (const pid of [gateway.pid, gateway.spawner()!, ...workers]) process.kill(pid, 'SIGUSR1')
  await workersThatTalk(cluster, gateway)
  expect(gateway.stderr() + gateway.stdout()).not.toContain('Debugger listening')
  expect(await debuggers()).not.toMatch(/dist\/(main|spawner)\.js/)
  for (const pid of workers) expect(isAlive(pid)).toBe(true)
})

/** Takes a turn, and resolves with the workers that are there then. */
async function workersThatTalk(cluster: Cluster, gateway: Gateway) {
  const at = gateway.url
  const conversation = await cluster.open({}, { at })
  const follower = await conversation.follow({ at })
  const posted = await conversation.post('/echo here', { at })
  expect((await follower.completed(String(posted.body.messageId))).data).toMatchObject({ finalText: 'here' })
  await follower.stop()
  const workers = gateway.workers()
  expect(workers.length).toBeGreaterThan(0)
  return workers
}
