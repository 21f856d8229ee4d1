import { connect } from 'node:net'
import { pino } from 'pino'
import { onTestFinished } from 'vitest'
import { createHttpApp, type Router } from '../../src/http/router.ts'
import { createHttpServer, type HttpServer } from '../../src/http/server.ts'

/** Waits of tests: so long that only a wait in vain reaches it, however busy the machine. */
export const PATIENT = { timeout: 20_000 }

export interface Served {
  url: string
  port: number
  server: HttpServer
  /** What the logger wrote, parsed. */
  lines: Record<string, unknown>[]
}

/** Starts the HTTP shell with some routes on a free loopback port; stopped when the test is over. */
export async function serve(mount: (app: Router) => void): Promise<Served> {
  const lines: Record<string, unknown>[] = []
  const formatters = { level: (label: string) => ({ level: label }) }
  const log = pino({ level: 'debug', formatters }, { write: (line: string) => lines.push(JSON.parse(line)) })
  const app = createHttpApp({ log })
  mount(app)
  const server = createHttpServer({ app, log }, { port: 0, host: '127.0.0.1' })
  const port = await server.start()
  onTestFinished(() => server.stop({ graceMs: 0 }))
  return { url: `http://127.0.0.1:${port}`, port, server, lines }
}

/** Sends bytes as they are and resolves with all that comes back until the server closes the connection. */
export function sendRaw(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let received = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(text))
    socket.on('data', (chunk) => {
      received += chunk
    })
    socket.on('end', () => resolve(received)).on('error', reject)
  })
}
