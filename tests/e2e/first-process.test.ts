import { spawn } from 'node:child_process'
import { cp, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished } from 'vitest'
import { test } from '../support/cluster.ts'
import { DIST, processesBelow, requireProc, superviseProgram, until } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('replicas share it')
requireProc()

test.override('clusterOptions', { replicas: 0, env: {} })

const ORPHANS = 500
/** What each worker does first: as many children that outlive the one that started them, and end by themselves. */
const DOUBLE_FORK = `
import { spawnSync } from 'node:child_process'
spawnSync('sh', ['-c', 'i=0; while [ $i -lt ${ORPHANS} ]; do (sleep 0.01 &); i=$((i+1)); done; touch "$0"', process.env.HOME + '/../forked'])
await import('./kept.js')
`

async function copyBuild() {
  const dist = await mkdtemp(path.join(fileURLToPath(new URL('../../node_modules/.cache', import.meta.url)), 'build-'))
  onTestFinished(() => rm(dist, { recursive: true, force: true }))
  await cp(DIST, dist, { recursive: true })
  await rename(path.join(dist, 'worker', 'main.js'), path.join(dist, 'worker', 'kept.js'))
  await writeFile(path.join(dist, 'worker', 'main.js'), DOUBLE_FORK)
  return dist
}

// 40, 41: a container whose image brings no init
test('a gateway that is process 1 leaves no zombie of workers that fork twice, obeys SIGTERM, and leaves nothing at all', async ({
  cluster,
  skip,
}) => {
  const unshare = ['--pid', '--fork', '--mount-proc', '--kill-child']
  const mayUnshare = await new Promise<boolean>((resolve) => {
    spawn('unshare', [...unshare, 'true'])
      .on('error', () => resolve(false))
      .on('close', (code) => resolve(code === 0))
  })
  if (!mayUnshare) skip('needs the right to make a process namespace')
  const dist = await copyBuild()
  const dir = await mkdtemp(path.join(fileURLToPath(new URL('../../node_modules/.cache', import.meta.url)), 'first-'))
  const env = {
    PATH: process.env.PATH ?? '',
    TMPDIR: dir,
    PORT: '0',
    HOST: '127.0.0.1',
    LOG_PRETTY: '0',
    ...cluster.env,
  }
  const child = spawn('unshare', [...unshare, process.execPath, path.join(dist, 'main.js'), 'serve'], {
    ...{ cwd: dir, env, stdio: ['ignore', 'pipe', 'pipe'] },
  })
  const gateway = superviseProgram(child, { dir, name: 'lobu serve as process 1' })
  onTestFinished(gateway.destroy)
  const { port } = await gateway.logged('listening')
  await gateway.logged('gateway ready')
  const at = `http://127.0.0.1:${port}`
  const conversation = await cluster.open({}, { at })
  const follower = await conversation.follow({ at })
  const posted = await conversation.post('/echo forked', { at })
  await follower.completed(String(posted.body.messageId))
  await follower.stop()
  const zombies = () => processesBelow(gateway.pid).filter(({ state }) => state === 'Z')
  await until(() => !processesBelow(gateway.pid).some(({ command }) => command === 'sleep'), 'all orphans have ended')
  await until(() => zombies().length === 0, 'no zombie is left')
  const [first] = processesBelow(gateway.pid)
  process.kill(first!.pid, 'SIGTERM')
  expect(await gateway.exited).toEqual({ code: 0, signal: null })
  expect(processesBelow(gateway.pid)).toEqual([])
})
