import { describe, expect } from 'vitest'
import { createScene } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { modelProviders } from '../../adapters/llm/index.ts'
import { resolveModel, statusOf } from '../../adapters/llm/resolve-model.ts'
import { createRedactions } from '../../lib/redactions.ts'
import { createModelChooser } from './choose-model.ts'
import { createProviderKeys, listProviderKeys, removeProviderKey, setProviderKey } from './provider-keys.ts'
import { putSecret } from './store.ts'
import { envelopeOf } from './test-keys.ts'

const envelope = envelopeOf()
const PROVIDERS = ['anthropic', 'openai']

async function createStage(world: World) {
  const scene = await createScene(world)
  const { sql, actor, organizationId, agentId } = scene
  const redactions = createRedactions()
  let lookups = 0
  const keys = createProviderKeys({
    scope() {
      lookups++
      return sql
    },
    ...{ envelope, redactions },
  })
  // The word that goes to all replicas.
  const signals = { accessChanged: keys.forget }
  const deps = { sql, signals, envelope, providers: PROVIDERS }
  return {
    ...{ scene, keys, redactions, deps },
    lookups: () => lookups,
    set: (provider: string, value: string, agent?: string) =>
      setProviderKey(deps, { actor, agentId: agent, provider, value }),
    remove: (provider: string, agent?: string) => removeProviderKey(deps, { actor, agentId: agent, provider }),
    find: (provider: string) => keys.find({ organizationId, agentId }, provider),
  }
}

describe('the key of a call', () => {
  test("is the agent's own, else the organization's, else none of theirs", async ({ world }) => {
    const { set, remove, find, scene } = await createStage(world)
    expect(await find('openai')).toBeUndefined()
    await set('openai', 'of-the-organization')
    expect(await find('openai')).toBe('of-the-organization')
    await set('openai', 'of-the-agent', scene.agentId)
    expect(await find('openai')).toBe('of-the-agent')
    expect(await find('anthropic')).toBeUndefined()
    await remove('openai', scene.agentId)
    expect(await find('openai')).toBe('of-the-organization')
    await remove('openai')
    expect(await find('openai')).toBeUndefined()
  })

  test('is looked up once for many calls, and anew after a change', async ({ world }) => {
    const { set, find, lookups } = await createStage(world)
    await set('openai', 'the-first-key')
    for (let call = 0; call < 20; call++) await find(call % 2 ? 'openai' : 'anthropic')
    expect(lookups()).toBe(1)
    await set('openai', 'the-second-key')
    expect(await find('openai')).toBe('the-second-key')
  })

  test('is not kept from a look-up that began before the last change', async ({ world }) => {
    const { scene, set, redactions } = await createStage(world)
    await set('openai', 'the-first-key')
    const held = Promise.withResolvers<void>()
    const read = Promise.withResolvers<void>()
    let isFirst = true
    const slow = (async (...query: Parameters<typeof scene.sql>) => {
      const rows = await scene.sql(...query)
      read.resolve()
      if (isFirst) await held.promise
      isFirst = false
      return rows
    }) as unknown as typeof scene.sql
    const keys = createProviderKeys({ scope: () => slow, envelope, redactions })
    const owner = { organizationId: scene.organizationId, agentId: scene.agentId }
    const late = keys.find(owner, 'openai')
    await read.promise
    await set('openai', 'the-second-key')
    keys.forget()
    held.resolve()
    await late
    expect(await keys.find(owner, 'openai')).toBe('the-second-key')
  })

  test('is one that may not be written from then on', async ({ world }) => {
    const { set, find, redactions } = await createStage(world)
    await set('openai', 'canary-of-the-key')
    await find('openai')
    expect(redactions.clean('Bearer canary-of-the-key')).toBe('Bearer [redacted]')
  })

  test('that cannot be opened is an error, and no other takes its place', async ({ world }) => {
    const { set, find, scene } = await createStage(world)
    await set('openai', 'of-the-organization')
    const key = {
      organizationId: scene.organizationId,
      agentId: scene.agentId,
      kind: 'provider' as const,
      name: 'openai',
    }
    await putSecret(scene.sql, envelopeOf('a lost key'), { key, value: 'of-the-agent' })
    await expect(find('openai')).rejects.toMatchObject({ code: 'model_unavailable' })
  })
})

test('an organization sees for which providers it has keys; of an unknown one there is none', async ({ world }) => {
  const { set, remove, deps, scene } = await createStage(world)
  await set('openai', 'a-key')
  expect(await listProviderKeys(deps, { actor: scene.actor })).toEqual([
    { provider: 'anthropic', updatedAt: null },
    { provider: 'openai', updatedAt: expect.any(Date) },
  ])
  const refused = [
    () => set('demo', 'a-key'),
    () => set('openai', 'a-key', 'no-agent'),
    () => remove('nobody'),
    () => remove('anthropic'),
  ]
  for (const attempt of refused) await expect(attempt()).rejects.toMatchObject({ code: 'not_found' })
})

test('a model can be chosen with a key of the organization although the environment has none', async ({ world }) => {
  const { set, keys, scene, lookups } = await createStage(world)
  const owner = { organizationId: scene.organizationId, agentId: scene.agentId }
  const choose = createModelChooser({
    providerKeys: keys,
    choose: (name, { provider, own }) =>
      resolveModel(name, {
        ...{ defaultModel: 'demo/demo', provider },
        models: modelProviders.map((provider) =>
          statusOf(provider, { baseUrl: 'http://x', apiKey: own?.has(provider.id) ? 'own' : undefined }),
        ),
      }),
  })
  const missing = choose('openai/gpt-5', owner)
  await expect(missing).rejects.toMatchObject({ code: 'model_unavailable' })
  await expect(missing).rejects.toThrow('a key of its own')
  await set('openai', 'a-key')
  expect(await choose('openai/gpt-5', owner)).toEqual({ provider: 'openai', modelId: 'gpt-5' })
  expect(await choose('gpt-5', owner, 'openai')).toEqual({ provider: 'openai', modelId: 'gpt-5' })
  await expect(choose('anthropic/claude', owner)).rejects.toMatchObject({ code: 'model_unavailable' })
  await expect(choose('nobody/x', owner)).rejects.toMatchObject({ code: 'invalid_request' })
  const before = lookups()
  expect(await choose(null, owner)).toEqual({ provider: 'demo', modelId: 'demo' })
  expect(lookups()).toBe(before)
})
