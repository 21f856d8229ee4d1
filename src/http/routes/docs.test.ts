import { expect, test } from 'vitest'
import { serve } from '../../../tests/support/http.ts'
import { createOpenApiDocument } from '../openapi.ts'
import { docsRoutes } from './docs.ts'
import { healthRoutes } from './health.ts'

const serveDocs = () =>
  serve((app) => {
    app.route('/', docsRoutes({ document: () => createOpenApiDocument(app, { version: '1.2.3' }) }))
    app.route('/', healthRoutes({ version: '1.2.3', readiness: async () => ({ ready: true, subsystems: {} }) }))
  })

test('the document describes the mounted routes by their own schemas', async () => {
  const { url } = await serveDocs()
  const document = (await (await fetch(`${url}/api/docs/openapi.json`)).json()) as Record<string, unknown>
  expect(document).toMatchObject({
    openapi: '3.1.0',
    info: { version: '1.2.3' },
    paths: { '/health/ready': { get: { responses: { 200: expect.anything(), 503: expect.anything() } } } },
    components: { securitySchemes: { bearer: { scheme: 'bearer' } } },
  })
})

test.each(['', '/lobu'])('under %j the page and all it refers to is served from here', async (prefix) => {
  const { url } = await serveDocs()
  const page = await fetch(`${url}${prefix}/api/docs`)
  expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self'/)
  const html = await page.text()
  const links = [...html.matchAll(/(?:href|src)="([^"]+)"/g)].map(([, link]) => new URL(link ?? '', page.url))
  expect(links.length).toBeGreaterThan(4)
  for (const link of links) {
    expect(link.origin).toBe(url)
    expect((await fetch(link)).status).toBe(200)
  }
})

test('the viewer may be kept for a year, our own files are asked for again and not sent twice', async () => {
  const { url } = await serveDocs()
  const html = await (await fetch(`${url}/api/docs`)).text()
  const viewer = /docs\/viewer-[^"]+bundle\.js/.exec(html)?.[0]
  const bundle = await fetch(`${url}/api/${viewer}`)
  expect(bundle.headers.get('cache-control')).toContain('immutable')
  for (const path of ['/api/docs/openapi.json', '/api/docs/docs.js']) {
    const first = await fetch(url + path)
    const again = await fetch(url + path, { headers: { 'if-none-match': first.headers.get('etag') ?? '' } })
    expect(again.status).toBe(304)
  }
})

test('no other file of the viewer’s folder is served', async () => {
  const { url } = await serveDocs()
  const html = await (await fetch(`${url}/api/docs`)).text()
  const folder = /docs\/(viewer-[^/]+)\//.exec(html)?.[1]
  for (const name of ['package.json', '..%2fpackage.json', 'swagger-ui.css%00', 'index.html']) {
    expect((await fetch(`${url}/api/docs/${folder}/${name}`)).status).toBe(404)
  }
})
