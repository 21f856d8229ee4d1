import { expect } from 'vitest'
import { serve } from '../../../tests/support/http.ts'
import { test } from '../../../tests/support/world.ts'
import type { Actor } from '../../domain/accounts/actor.ts'
import { CLI_CLIENT_ID } from '../../domain/sign-in/oauth-clients.ts'
import { createStage } from '../../domain/sign-in/test-oauth.ts'
import { appRoutes } from './apps.ts'

test('a person lists the programs they let in, and takes one back', async ({ world }) => {
  const at = await createStage(world)
  await at.tokens({ scope: 'agents:read' })
  const actor = { ...at.scene.actor, kind: 'user', userId: at.person.userId } as Actor
  const { url } = await serve((app) => {
    app.use(async (c, next) => {
      c.set('actor', actor)
      await next()
    })
    app.route('/', appRoutes(at))
  })
  const apps = `${url}/api/account/apps`
  expect(await (await fetch(apps)).json()).toEqual({
    apps: [{ clientId: CLI_CLIENT_ID, name: 'Lobu command line', scopes: ['agents:read'], since: expect.any(String) }],
    nextCursor: null,
  })
  expect((await fetch(`${apps}?limit=0`)).status).toBe(400)
  const remove = () => fetch(`${apps}/${CLI_CLIENT_ID}`, { method: 'DELETE' })
  expect((await remove()).status).toBe(204)
  expect(at.signals.access.length).toBeGreaterThan(0)
  expect((await remove()).status).toBe(404)
  expect(await (await fetch(apps)).json()).toEqual({ apps: [], nextCursor: null })
})
