import { expect } from 'vitest'
import { createTestApp } from '../../tests/support/gateway-app.ts'
import { createScene } from '../../tests/support/scene.ts'
import { test } from '../../tests/support/world.ts'
import { createOpenApiDocument } from './openapi.ts'

/** What is no API: pages, their files, and the document itself. Everything else says in the document who may call it. */
const UNDOCUMENTED = [
  /^\/$/,
  /^\/api\/docs(\/|$)/,
  /^\/(page|assets)\//,
  /^\/[\w-]+\.(css|js|ico|png|svg)$/,
  /^\/favicon/,
]

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
  expect(unknown.filter((route) => !UNDOCUMENTED.some((path) => path.test(route.split(' ')[1]!)))).toEqual([])
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
