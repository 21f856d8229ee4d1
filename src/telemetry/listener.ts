import { createHash, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { Metrics } from './metrics.ts'

export interface MetricsListenerOptions {
  /** 0 takes any free port. */
  port: number
  host: string
  /** Who scrapes must send it as a bearer token. */
  token: string | undefined
}

export interface MetricsListener {
  /** Resolves with the port. @throws Error that says what to do when the port cannot be had. */
  start(): Promise<number>
  /** May be called twice or first. */
  stop(): Promise<void>
}

/** A scraper sends a few headers and nothing else. */
const REQUEST_MS_MAX = 10_000
const HEADER_BYTES_MAX = 8_192

/**
 * `GET /metrics` on a port of its own, so that what is for the operator's eyes is never behind the same door as the API: an
 * ingress that forwards everything forwards none of it.
 */
export function createMetricsListener(
  { metrics, log }: { metrics: Metrics; log: Logger },
  { port, host, token }: MetricsListenerOptions,
): MetricsListener {
  const server = createServer(
    { requestTimeout: REQUEST_MS_MAX, headersTimeout: REQUEST_MS_MAX, maxHeaderSize: HEADER_BYTES_MAX },
    (req, res) => {
      const status = judge(req, token)
      if (status !== 200) return res.writeHead(status, status === 401 ? { 'www-authenticate': 'Bearer' } : {}).end()
      metrics.render().then(
        ({ contentType, text }) => res.writeHead(200, { 'content-type': contentType }).end(text),
        (error: unknown) => {
          log.error({ err: errorLine(error) }, 'metrics could not be rendered')
          res.writeHead(500).end()
        },
      )
    },
  )
  let stopped: Promise<void> | undefined

  return {
    start: () =>
      new Promise((resolve, reject) => {
        server.once('error', (error: NodeJS.ErrnoException) => {
          reject(new Error(`METRICS_PORT: cannot listen on port ${port} of ${host} (${error.code})`, { cause: error }))
        })
        server.listen({ port, host }, () => {
          server.on('error', (error) => log.error({ err: errorLine(error) }, 'metrics listener failed'))
          resolve((server.address() as AddressInfo).port)
        })
      }),
    stop() {
      stopped ??= new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
      return stopped
    },
  }
}

function judge(req: IncomingMessage, token: string | undefined): number {
  if ((req.url ?? '').split('?', 1)[0] !== '/metrics') return 404
  if (req.method !== 'GET' && req.method !== 'HEAD') return 405
  if (token !== undefined && !isSame(req.headers.authorization ?? '', `Bearer ${token}`)) return 401
  return 200
}

/** Takes as long for a near miss as for a far one. */
function isSame(given: string, wanted: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(given), digest(wanted))
}
