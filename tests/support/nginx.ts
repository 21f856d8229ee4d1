import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { freePort } from './free-port.ts'
import { until } from './gateway.ts'
import type { LoadBalancer } from './proxy.ts'

const PROGRAM = ['/usr/sbin/nginx', '/usr/bin/nginx', '/usr/local/sbin/nginx'].find((file) => existsSync(file))

/** Where nginx says itself which configuration it has. */
const GENERATION = '/nginx-generation'

export function hasNginx(): boolean {
  return PROGRAM !== undefined
}

/**
 * A real nginx in front of the replicas whose `location` holds `proxy_pass` and nothing else: HTTP/1.0 upstream, buffering
 * on, 60 s of silence at most. New targets are a new configuration and a reload, as an ingress controller makes it;
 * what is under way at that time goes on with the old ones.
 */
export async function startNginx({ location = '' }: { location?: string } = {}): Promise<LoadBalancer> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-nginx-'))
  const port = await freePort()
  const file = path.join(dir, 'nginx.conf')
  let generation = 0
  const write = (ports: number[]) => writeFile(file, configuration({ dir, port, ports, location, generation }))
  await write([])
  const child = spawn(PROGRAM!, ['-p', dir, '-c', file, '-e', path.join(dir, 'error.log')], { stdio: 'ignore' })
  let writing = Promise.resolve()
  const url = `http://127.0.0.1:${port}`
  const isCurrent = () =>
    fetch(`${url}${GENERATION}`).then(
      async (answer) => (await answer.text()) === String(generation),
      () => false,
    )
  const current = () => until(isCurrent, 'nginx has its configuration')

  async function reload(ports: number[]) {
    generation++
    await write(ports)
    child.kill('SIGHUP')
    await current()
  }

  await current().catch(async (error) => {
    child.kill('SIGKILL')
    throw new Error(`${error}\n${await readFile(path.join(dir, 'error.log'), 'utf8').catch(() => '')}`)
  })
  return {
    url,
    setTargets(ports) {
      writing = writing.then(() => reload(ports))
      return writing
    },
    counts: () => new Map(),
    giveUp() {},
    trustTargets() {},
    async stop() {
      await writing
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGTERM')
        await once(child, 'exit')
      }
      await rm(dir, { recursive: true, force: true })
    },
  }
}

function configuration(args: {
  dir: string
  port: number
  ports: number[]
  location: string
  generation: number
}): string {
  const { dir, port, ports, location, generation } = args
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  const target = ports.length === 0 ? 'return 503 "no replica is ready";' : `proxy_pass http://lobu;${location}`
  return `daemon off;
pid ${dir}/pid;
worker_processes 1;
events { worker_connections 8192; }
http {
  access_log off;
${temporary.map((name) => `  ${name}_temp_path ${dir}/${name};`).join('\n')}
${ports.length === 0 ? '' : `  upstream lobu { ${ports.map((one) => `server 127.0.0.1:${one};`).join(' ')} }`}
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location = ${GENERATION} { return 200 "${generation}"; }
    location / { ${target} }
  }
}
`
}
