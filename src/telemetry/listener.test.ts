import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { createLogger } from '../lib/logger.ts'
import { createMetricsListener, type MetricsListenerOptions } from './listener.ts'
import { createMetrics } from './prometheus.ts'

const log = createLogger({ level: 'silent', pretty: false })

async function listen(over: Partial<MetricsListenerOptions> = {}) {
  const metrics = createMetrics()
  const options = { port: 0, host: '127.0.0.1', token: undefined, ...over }
  const listener = createMetricsListener({ metrics, log }, options)
  onTestFinished(listener.stop)
  return `http://127.0.0.1:${await listener.start()}`
}

test('there is one path, and it is read-only', async () => {
  const url = await listen()
  const answer = await fetch(`${url}/metrics?x=1`)
  expect(answer.status).toBe(200)
  expect(answer.headers.get('content-type')).toContain('text/plain')
  expect(await answer.text()).toContain('# TYPE lobu_runs_ended_total counter')
  for (const path of ['/', '/health', '/metrics/x', '/api/v1/agents'])
    expect((await fetch(url + path)).status).toBe(404)
  expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).toBe(405)
})

test('with a token nobody else sees anything', async () => {
  const url = await listen({ token: 'the token of the scraper' })
  const ask = (authorization?: string) =>
    fetch(`${url}/metrics`, authorization === undefined ? {} : { headers: { authorization } })
  for (const wrong of [
    undefined,
    'Bearer',
    'Bearer the token',
    'Basic dGhlIHRva2Vu',
    'Bearer the token of the scraperx',
  ]) {
    const answer = await ask(wrong)
    expect(answer.status).toBe(401)
    expect(await answer.text()).toBe('')
  }
  expect((await ask('Bearer the token of the scraper')).status).toBe(200)
})

test('a port that is taken is named together with its setting', async () => {
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void other.close())
  const { port } = other.address() as AddressInfo
  await expect(listen({ port })).rejects.toThrow(new RegExp(`METRICS_PORT.*${port}`))
})

test('it stops with a scraper still connected, and may be stopped first or twice', async () => {
  const listener = createMetricsListener(
    { metrics: createMetrics(), log },
    { port: 0, host: '127.0.0.1', token: undefined },
  )
  const url = `http://127.0.0.1:${await listener.start()}`
  await (await fetch(`${url}/metrics`)).text()
  await listener.stop()
  await listener.stop()
  await expect(fetch(`${url}/metrics`)).rejects.toThrow()
})
