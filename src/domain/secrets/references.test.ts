// biome-ignore-all lint/suspicious/noTemplateCurlyInString: that is how references are written
import { describe, expect } from 'vitest'
import { createScene } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { createRedactions } from '../../lib/redactions.ts'
import { checkSecretReferences, findSecretReferences, resolveSecretReferences } from './references.ts'
import { checkServerReferences, resolveServerHeaders } from './servers.ts'
import { putSecret } from './store.ts'
import { envelopeOf } from './test-keys.ts'

const envelope = envelopeOf()
const URL = 'https://mcp.example.test/path'

async function createStage(world: World) {
  const scene = await createScene(world)
  const { organizationId, agentId, sql } = scene
  const deps = { sql, envelope, redactions: createRedactions() }
  const owner = { organizationId, agentId }
  return {
    ...{ scene, deps, owner },
    put: (name: string, value: string, more: { agentId?: string; allowedHosts?: string[] } = {}) => {
      const { agentId: agent = '', allowedHosts = [] } = more
      const key = { organizationId, agentId: agent, kind: 'secret' as const, name }
      return putSecret(sql, envelope, { key, value, allowedHosts })
    },
    resolve: <T>(value: T, over: { url?: string; writtenBy?: 'agent' | 'caller' } = {}) =>
      resolveSecretReferences(deps, value, { owner, url: URL, writtenBy: 'agent', ...over }),
  }
}

describe('a reference', () => {
  test('becomes the value wherever it stands in a text, and the given settings stay as they are', async ({ world }) => {
    const { put, resolve } = await createStage(world)
    await put('ONE', 'first-$&-value')
    await put('TWO', 'second')
    const given = { a: 'Bearer ${secret:ONE}', list: ['${secret:TWO}${secret:ONE}', 7, null, true], plain: '$secret' }
    const before = structuredClone(given)
    expect(await resolve(given)).toEqual({
      ...{ a: 'Bearer first-$&-value', list: ['secondfirst-$&-value', 7, null, true], plain: '$secret' },
    })
    expect(given).toEqual(before)
  })

  test("is the agent's secret of that name before the organization's", async ({ world }) => {
    const { put, resolve, scene } = await createStage(world)
    await put('ONE', 'of the organization')
    expect(await resolve('${secret:ONE}')).toBe('of the organization')
    await put('ONE', 'of the agent', { agentId: scene.agentId })
    expect(await resolve('${secret:ONE}')).toBe('of the agent')
    await put('TWO', 'of another agent', { agentId: 'other' })
    await expect(resolve('${secret:TWO}')).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test('is never to a secret of another organization, nor to a provider key', async ({ world }) => {
    const { resolve } = await createStage(world)
    const other = await createStage(world)
    await other.put('ONE', 'theirs')
    await putSecret(other.scene.sql, envelope, {
      key: { organizationId: other.scene.organizationId, agentId: '', kind: 'provider', name: 'OPENAI' },
      value: 'a key',
    })
    await expect(resolve('${secret:ONE}')).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(other.resolve('${secret:OPENAI}')).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test.for([
    ['${secret:UNKNOWN}', '${secret:UNKNOWN} is not set'],
    ['${secret:bad-name}', '${secret:bad-name} is no name'],
    ['${secret:}', '${secret:} is no name'],
    [{ deep: ['${secret:KNOWN}', '${secret:UNKNOWN}'] }, 'UNKNOWN'],
  ] as const)('%j is refused, without a word of any value', async ([value, words], { world }) => {
    const { put, resolve } = await createStage(world)
    await put('KNOWN', 'canary-value')
    const refused = resolve(value)
    await expect(refused).rejects.toMatchObject({ code: 'invalid_request', message: expect.stringContaining(words) })
    await expect(refused).rejects.not.toThrow('canary')
  })

  test('makes its value one that may not be written; without references nothing is looked up', async ({ world }) => {
    const { put, resolve, deps } = await createStage(world)
    await put('ONE', 'canary-value')
    expect(deps.redactions.clean('canary-value')).toBe('canary-value')
    await resolve('${secret:ONE}')
    expect(deps.redactions.clean('canary-value')).toBe('[redacted]')
    const away = { ...deps, sql: (() => Promise.reject(new Error('looked up'))) as never }
    const use = { owner: { organizationId: 'x', agentId: 'y' }, url: URL, writtenBy: 'caller' as const }
    expect(await resolveSecretReferences(away, { a: 'plain' }, use)).toEqual({ a: 'plain' })
  })

  test('that a value seems to hold is not followed', async ({ world }) => {
    const { put, resolve } = await createStage(world)
    await put('ONE', '${secret:TWO}')
    await put('TWO', 'second')
    expect(await resolve('${secret:ONE}')).toBe('${secret:TWO}')
  })
})

describe('where a secret may be sent', () => {
  test('without a list of hosts it goes where the agent says, and not where a caller says', async ({ world }) => {
    const { put, resolve } = await createStage(world)
    await put('ONE', 'canary-value')
    expect(await resolve('${secret:ONE}', { writtenBy: 'agent' })).toBe('canary-value')
    await expect(resolve('${secret:ONE}', { writtenBy: 'caller' })).rejects.toThrow(
      'may not be sent to mcp.example.test',
    )
  })

  test.for([
    ['https://api.test/', true],
    ['https://API.test/x', true],
    ['https://api.test:8443/', true],
    ['https://deep.sub.test/', true],
    ['https://port.test:9000/', true],
    ['https://port.test/', false],
    ['https://sub.test/', false],
    ['https://evilsub.test/', false],
    ['https://api.test.evil.test/', false],
    ['https://api.test@evil.test/', false],
    ['https://evil.test/?api.test', false],
    ['file://api.test/', false],
    ['no url', false],
    ['', false],
  ] as const)('with a list of hosts it goes to %s: %s', async ([url, allowed], { world }) => {
    const { put, resolve } = await createStage(world)
    await put('ONE', 'canary-value', { allowedHosts: ['api.test', '.sub.test', 'port.test:9000'] })
    for (const writtenBy of ['agent', 'caller'] as const) {
      const resolved = resolve('${secret:ONE}', { url, writtenBy })
      if (allowed) expect(await resolved).toBe('canary-value')
      else await expect(resolved).rejects.toMatchObject({ code: 'invalid_request' })
    }
  })
})

describe('servers of settings', () => {
  test('get their headers with credentials in place, and nothing else of them may have any', async ({ world }) => {
    const { put, deps, owner } = await createStage(world)
    await put('ONE', 'canary-value')
    const use = { owner, writtenBy: 'agent' as const }
    const server = { url: URL, headers: { authorization: 'Bearer ${secret:ONE}', accept: 'x' } }
    expect(await resolveServerHeaders(deps, { server, ...use })).toEqual({
      ...{ authorization: 'Bearer canary-value', accept: 'x' },
    })
    expect(await resolveServerHeaders(deps, { server: { url: URL }, ...use })).toEqual({})
    const inUrl = { url: `${URL}?key=\${secret:ONE}`, headers: {} }
    await expect(resolveServerHeaders(deps, { server: inUrl, ...use })).rejects.toThrow('"headers" alone')
  })

  test('are warned about when they are stored', async ({ world }) => {
    const { put, deps, owner } = await createStage(world)
    await put('FREE', 'canary-value')
    await put('BOUND', 'canary-value', { allowedHosts: ['mcp.example.test'] })
    const headers = { a: '${secret:BOUND}', b: '${secret:FREE}', c: '${secret:UNKNOWN}' }
    const mcpServers = { files: { url: URL, headers }, plain: { url: URL }, bad: { url: '${secret:BOUND}' } }
    const warnings = await checkServerReferences(deps, { owner, mcpServers })
    expect(warnings).toEqual([
      expect.stringContaining('mcpServers.files: ${secret:FREE} may not be sent'),
      expect.stringContaining('mcpServers.files: ${secret:UNKNOWN} is not set'),
      expect.stringContaining('mcpServers.bad: References'),
    ])
    expect(JSON.stringify(warnings)).not.toContain('canary')
    const use = { owner, url: URL, writtenBy: 'agent' as const }
    expect(await checkSecretReferences(deps, headers, use)).toEqual([expect.stringContaining('UNKNOWN')])
  })

  test('may not be nested without end', () => {
    let nested: unknown = '${secret:ONE}'
    for (let depth = 0; depth < 10_000; depth++) nested = [nested]
    expect(() => findSecretReferences(nested)).toThrow('nested')
    expect(findSecretReferences({ a: ['${secret:ONE}', '${secret:ONE} ${secret:x}'] })).toEqual(['ONE', 'x'])
  })
})
