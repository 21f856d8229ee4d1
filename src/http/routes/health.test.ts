import { expect, test } from 'vitest'
import { serve } from '../../../tests/support/http.ts'
import { healthRoutes, type Readiness } from './health.ts'

function serveHealth(readiness: () => Promise<Readiness>) {
  return serve((app) => app.route('/', healthRoutes({ version: '1.2.3', readiness })))
}

test('the process is alive whatever the subsystems say', async () => {
  const { url } = await serveHealth(() => new Promise(() => {}))
  const response = await fetch(`${url}/health`)
  expect(response.status).toBe(200)
  const body = (await response.json()) as { timestamp: string }
  expect(body).toEqual({ status: 'ok', service: 'lobu', version: '1.2.3', timestamp: expect.any(String) })
  expect(new Date(body.timestamp).toISOString()).toBe(body.timestamp)
})

test('readiness passes on what runs here, and which subsystem is not ready', async () => {
  const report: Readiness = {
    ready: true,
    subsystems: { database: { state: 'ok', detail: 'Postgres 17' }, workers: { state: 'ok' } },
    version: '1.2.3',
    loops: { publisher: { ageMs: 12 } },
  }
  const { url } = await serveHealth(async () => report)
  const ready = await fetch(`${url}/health/ready`)
  expect({ status: ready.status, body: await ready.json() }).toEqual({ status: 200, body: report })

  report.ready = false
  report.subsystems.workers = { state: 'starting' }
  const waiting = await fetch(`${url}/health/ready`)
  expect({ status: waiting.status, body: await waiting.json() }).toEqual({ status: 503, body: report })
  expect(waiting.headers.get('retry-after')).toBe('1')
})
