import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { vi } from 'vitest'
import { freePort } from './free-port.ts'

const PROGRAM = ['/usr/sbin/pgbouncer', '/usr/bin/pgbouncer', '/usr/local/bin/pgbouncer'].find((file) =>
  existsSync(file),
)

/** Whether `LOBU_FAULTS_POOLER=1` asks for a PgBouncer in front of Postgres wherever a suite puts nothing else there. */
export function isPooled(): boolean {
  return process.env.LOBU_FAULTS_POOLER === '1'
}

export interface PgBouncer {
  /** The URL given, through the pooler. */
  url: string
  stop(): Promise<void>
}

export function hasPgBouncer(): boolean {
  return PROGRAM !== undefined
}

/**
 * A PgBouncer on the loopback. In transaction mode it has two connections to the server behind the URL unless told
 * otherwise, so that whoever keeps one for longer than a transaction is noticed.
 */
export async function startPgBouncer(
  url: string,
  mode: 'transaction' | 'session',
  poolSize = mode === 'transaction' ? 2 : 20,
): Promise<PgBouncer> {
  const target = new URL(url)
  const port = await freePort()
  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-pgbouncer-'))
  await writeFile(path.join(dir, 'users.txt'), `"${target.username}" ""\n`)
  await writeFile(
    path.join(dir, 'pgbouncer.ini'),
    `[databases]
* = host=${target.hostname} port=${target.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${path.join(dir, 'users.txt')}
pool_mode = ${mode}
default_pool_size = ${poolSize}
; By itself it tries a server that was away again after 15 s, and lets clients wait for it for two minutes.
server_login_retry = 1
query_wait_timeout = 5
`,
  )
  await chmod(dir, 0o755)
  const child = spawn(PROGRAM!, ['-q', path.join(dir, 'pgbouncer.ini')], { stdio: 'ignore', ...unprivileged() })
  try {
    await vi.waitUntil(() => answers(port), { timeout: 10_000 })
  } catch (error) {
    await stop(child, dir)
    throw error
  }
  target.hostname = '127.0.0.1'
  target.port = String(port)
  return { url: target.href, stop: () => stop(child, dir) }
}

async function stop(child: ChildProcess, dir: string) {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  await rm(dir, { recursive: true, force: true })
}

/** PgBouncer, like Postgres, refuses to run as root. */
function unprivileged(): { uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) return {}
  const id = (flag: string) => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }))
  return { uid: id('-u'), gid: id('-g') }
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false))
    socket.on('connect', () => socket.destroy())
  })
}
