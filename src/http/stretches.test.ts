import { expect } from 'vitest'
import { createTestApp, PUBLIC_URL } from '../../tests/support/gateway-app.ts'
import { createScene } from '../../tests/support/scene.ts'
import { test } from '../../tests/support/world.ts'
import { createApiKey } from '../domain/accounts/api-keys.ts'
import { JSON_BYTES_MAX } from './body.ts'
import { createOpenApiDocument } from './openapi.ts'

/**
 * A probe of liveness waits for 5 s. Measured: 0.2 s at most. In time of the processor, which a busy machine does not
 * lengthen as it does time on the clock.
 */
const STRETCH_MS_MAX = 2_000

/** What takes validators longest for its size: names, and things that are none of what is expected. */
const SHAPES: Record<string, string> = {
  names: `{${Array.from({ length: 75_000 }, (_, at) => `"k${at}":1`).join()}}`,
  things: `[${Array.from({ length: 300_000 }, () => '{}').join()}]`,
}

interface Schema {
  $ref?: string
  allOf?: Schema[]
  properties?: Record<string, unknown>
}

/** Milliseconds of the processor that this thread took at most before anything else had its turn. */
async function longestStretch(work: () => Promise<void>): Promise<number> {
  let isOver = false
  let longest = 0
  const watching = (async () => {
    while (!isOver) {
      const before = process.threadCpuUsage()
      await new Promise(setImmediate)
      const { user, system } = process.threadCpuUsage(before)
      longest = Math.max(longest, (user + system) / 1000)
    }
  })()
  await work()
  isOver = true
  await watching
  return longest
}

// 68
test('no body that a client may send keeps the event loop, which answers probes, for long', async ({ world }) => {
  const scene = await createScene(world)
  const { app } = createTestApp(scene, world)
  const { organizationId } = scene
  const { token } = await createApiKey(scene.sql, { organizationId, userId: null, name: 'test' })
  const document = createOpenApiDocument(app, { version: '1' })
  const schemas = (document.components?.schemas ?? {}) as Record<string, Schema>
  const fieldsOf = ({ $ref, allOf = [], properties = {} }: Schema): string[] => [
    ...Object.keys(properties),
    ...allOf.flatMap(fieldsOf),
    ...($ref === undefined ? [] : fieldsOf(schemas[$ref.split('/').at(-1)!]!)),
  ]
  const conversationId = await scene.open()
  const bodies = Object.entries(document.paths ?? {}).flatMap(([path, methods]) =>
    Object.entries(
      methods as Record<string, { requestBody?: { content: Record<string, { schema: Schema }> } }>,
    ).flatMap(([method, { requestBody }]) => {
      const schema = requestBody?.content['application/json']?.schema
      if (!schema) return []
      const url = path
        .replace('{org}', organizationId)
        .replace('{id}', conversationId)
        .replaceAll(/\{\w+\}/g, 'anything')
      return fieldsOf(schema).map((field) => ({ method: method.toUpperCase(), url, path, field }))
    }),
  )
  expect(bodies.length).toBeGreaterThan(50)

  for (const { method, url, path, field } of bodies) {
    for (const [shape, value] of Object.entries(SHAPES)) {
      const body = `{"${field}":${value}}`
      expect(body.length).toBeLessThan(JSON_BYTES_MAX)
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json', origin: PUBLIC_URL }
      const ms = await longestStretch(async () => {
        await (await app.request(url, { method, headers, body })).text()
      })
      expect(ms, `${method} ${path} ${field} ${shape}`).toBeLessThan(STRETCH_MS_MAX)
    }
  }
})
