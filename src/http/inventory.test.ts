import { expect } from 'vitest'
import { createTestApp } from '../../tests/support/gateway-app.ts'
import { createScene } from '../../tests/support/scene.ts'
import { test } from '../../tests/support/world.ts'
import { createOpenApiDocument } from './openapi.ts'

/** What is no API: the page with its files, and the reference with the document itself. Anybody may read them. */
const UNDOCUMENTED = new Set([
  ...['/', '/page.css', '/chat.css', '/page.js', '/chat.js', '/transcript.js', '/client.js', '/markdown.js'],
  ...['/api/docs', '/api/docs/openapi.json', '/api/docs/docs.css', '/api/docs/docs.js'],
])
/** Pages of people, with their files. Each asks for a signed-in person itself where it needs one. */
const ACCOUNT_PAGES = new Set([
  ...['/sign-in', '/setup', '/invite', '/account', '/forgot', '/reset', '/device', '/consent'],
  ...['/account.css', '/oauth.css', '/account-form.js', '/sign-in.js', '/setup.js', '/invite.js', '/account.js'],
  ...['/forgot.js', '/reset.js'],
])
/** OAuth's own endpoints: their document is the discovery at `/.well-known/`. better-auth's routes are its own as well. */
const PROTOCOL =
  /^\/(oauth\/(authorize|token|revoke|device|register|userinfo)$|\.well-known\/(oauth|openid)-|api\/auth\/)/
const FORMS = new Set(['POST /device', 'POST /consent', 'POST /sign-in/next', 'POST /invite/accept'])
const VIEWER_FILE = /^\/api\/docs\/viewer-[\d.]+\/[\w.-]+$/

interface Operation {
  method: string
  path: string
  security?: unknown[]
}

async function readInventory(world: Parameters<typeof createTestApp>[1]) {
  const { app, call } = createTestApp(await createScene(world), world)
  const document = createOpenApiDocument(app, { version: '1' })
  const documented: Operation[] = Object.entries(document.paths ?? {}).flatMap(([path, methods]) =>
    Object.entries(methods as Record<string, { security?: unknown[] }>).map(([method, { security }]) => ({
      method: method.toUpperCase(),
      path,
      ...(security === undefined ? {} : { security }),
    })),
  )
  const routed = app.routes
    .filter(({ method }) => method !== 'ALL')
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`)
  return { documented, routed: [...new Set(routed)], call }
}

test('every route is in the document, but for the pages named here', async ({ world }) => {
  const { documented, routed } = await readInventory(world)
  const known = new Set(documented.map(({ method, path }) => `${method} ${path}`))
  const unknown = routed.filter((route) => !known.has(route))
  const isPage = (path: string) => UNDOCUMENTED.has(path) || ACCOUNT_PAGES.has(path) || VIEWER_FILE.test(path)
  const isNamed = (route: string) => {
    const [method, path] = route.split(' ') as [string, string]
    return (method === 'GET' && isPage(path)) || PROTOCOL.test(path) || FORMS.has(route)
  }
  expect(unknown.filter((route) => !isNamed(route))).toEqual([])
  expect([...known].filter((route) => !routed.includes(route))).toEqual([])
  expect(known.size).toBeGreaterThan(25)
})

test('every documented route declares who may call it', async ({ world }) => {
  const { documented } = await readInventory(world)
  expect(
    documented.filter(({ security }) => security === undefined).map(({ method, path }) => `${method} ${path}`),
  ).toEqual([])
})

test('a route that wants a credential answers 401 without one, whatever else is wrong', async ({ world }) => {
  const { documented, call } = await readInventory(world)
  const closed = documented.filter(({ security }) => (security?.length ?? 0) > 0)
  expect(closed.length).toBeGreaterThan(20)
  for (const { method, path } of closed) {
    const { status, body } = await call(method, path.replaceAll(/\{\w+\}/g, 'anything'))
    expect([status, body?.code], `${method} ${path}`).toEqual([401, 'unauthenticated'])
  }
})
