import { beforeEach, describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import type { Envelope } from '../../lib/envelope.ts'
import { readConfidentialSettings } from '../conversations/confidential.ts'
import { checkEncryptionKeys } from './canary.ts'
import { rotateSecrets } from './rotate.ts'
import { putSecret, readSecrets, type SecretKind } from './store.ts'
import { envelopeOf } from './test-keys.ts'

requirePostgres('rotations meet on connections of their own')

const OLD = envelopeOf('the old key')
const BOTH = envelopeOf('the new key', 'the old key')
const NEW = envelopeOf('the new key')

// Keys and their canaries are the whole database's.
beforeEach<{ world: World }>(async ({ world }) => {
  const { sql } = await world.replica()
  await sql`delete from secrets`
  await sql`delete from conversations`
  await sql`delete from encryption_canaries`
})

async function fill(scene: Scene, { count, envelope }: { count: number; envelope: Envelope }) {
  const kinds: SecretKind[] = ['secret', 'provider', 'oidc']
  for (let at = 0; at < count; at++) {
    const agentId = at % 2 ? scene.agentId : ''
    const key = { organizationId: scene.organizationId, agentId, kind: kinds[at % 3]!, name: `NAME_${at}` }
    await putSecret(scene.sql, envelope, { key, value: `value ${at}` })
  }
}

async function valuesOf({ sql, organizationId, agentId }: Scene, envelope: Envelope) {
  const kinds: SecretKind[] = ['secret', 'provider', 'oidc']
  const read = kinds.map((kind) => readSecrets(sql, envelope, { organizationId, agentId, kind, names: null }))
  return (await Promise.all(read))
    .flat()
    .map(({ value }) => value)
    .sort()
}

const valuesUpTo = (count: number) => Array.from({ length: count }, (_, at) => `value ${at}`).sort()

describe('a rotation', () => {
  test('seals everything anew; then the old key can go', async ({ world }) => {
    const scenes = [await createScene(world), await createScene(world)]
    const { sql } = scenes[0]!
    await checkEncryptionKeys({ sql, envelope: OLD })
    for (const scene of scenes) await fill(scene, { count: 25, envelope: OLD })
    const mcpServers = { files: { url: 'https://files.test', headers: { authorization: 'Bearer literal' } } }
    const conversationId = await scenes[0]!.open({ confidential: { settings: { mcpServers }, envelope: OLD } })
    await checkEncryptionKeys({ sql, envelope: BOTH })
    const before = await sql`select name, updated_at from secrets order by organization_id, name`

    expect(await rotateSecrets({ sql, envelope: BOTH }, { batchRows: 7 })).toEqual({
      ...{ resealed: 51, damaged: 0, missingKeyIds: [] },
    })
    await checkEncryptionKeys({ sql, envelope: NEW })
    for (const scene of scenes) expect(await valuesOf(scene, NEW)).toEqual(valuesUpTo(25))
    const place = { organizationId: scenes[0]!.organizationId, conversationId }
    expect(await readConfidentialSettings(sql, NEW, place)).toEqual({ mcpServers })
    expect(await sql`select name, updated_at from secrets order by organization_id, name`).toEqual(before)
    expect(await rotateSecrets({ sql, envelope: NEW })).toEqual({ resealed: 0, damaged: 0, missingKeyIds: [] })
    expect(await sql`select key_id from encryption_canaries`).toEqual([{ key_id: NEW.keyId }])
  })

  test('is in the audit log of each organization that had something to seal', async ({ world }) => {
    const scene = await createScene(world)
    await fill(scene, { count: 3, envelope: OLD })
    await checkEncryptionKeys({ sql: scene.sql, envelope: BOTH })
    await rotateSecrets({ sql: scene.sql, envelope: BOTH })
    const entries = await scene.sql`
      select action, actor_kind as kind, target_id as target, details from audit_log
      where organization_id = ${scene.organizationId}`
    expect(entries).toEqual([{ action: 'secrets.resealed', kind: 'system', target: NEW.keyId, details: { count: 3 } }])
  })

  test('goes on while values are read and changed, and loses none of them', async ({ world }) => {
    const scene = await createScene(world)
    await fill(scene, { count: 60, envelope: OLD })
    await checkEncryptionKeys({ sql: scene.sql, envelope: BOTH })
    const { sql } = await world.replica()
    let running = true
    let reads = 0
    const reading = (async () => {
      while (running || reads < 3) {
        expect((await valuesOf({ ...scene, sql }, BOTH)).filter((value) => value === undefined)).toEqual([])
        reads++
      }
    })()
    const writing = (async () => {
      for (let round = 0; round < 20; round++) {
        const key = { organizationId: scene.organizationId, agentId: '', kind: 'secret' as const, name: 'NAME_0' }
        await sql.begin((tx) => putSecret(tx as never, round % 2 ? BOTH : OLD, { key, value: `round ${round}` }))
      }
    })()
    const others = await Promise.all([world.replica(), world.replica()])
    const rotations = await Promise.all(
      others.map((one) => rotateSecrets({ sql: one.sql, envelope: BOTH }, { batchRows: 5 })),
    )
    await writing
    running = false
    await reading
    const rest = await rotateSecrets({ sql, envelope: BOTH })
    const total = [...rotations, rest].reduce((sum, { resealed }) => sum + resealed, 0)
    expect(total).toBeGreaterThanOrEqual(59)
    expect(await valuesOf(scene, NEW)).toEqual(['round 19', ...valuesUpTo(60).slice(1)].sort())
    await checkEncryptionKeys({ sql, envelope: NEW })
  })

  test('that is called twice at once seals each value once', async ({ world }) => {
    const scene = await createScene(world)
    await fill(scene, { count: 40, envelope: OLD })
    await checkEncryptionKeys({ sql: scene.sql, envelope: BOTH })
    const replicas = await Promise.all([world.replica(), world.replica(), world.replica()])
    const rotations = await Promise.all(
      replicas.map(({ sql }) => rotateSecrets({ sql, envelope: BOTH }, { batchRows: 3 })),
    )
    expect(rotations.reduce((sum, { resealed }) => sum + resealed, 0)).toBe(40)
    expect(await valuesOf(scene, NEW)).toEqual(valuesUpTo(40))
  })

  test('that was cut short goes on where it stopped', async ({ world }) => {
    const scene = await createScene(world)
    const { sql } = scene
    await fill(scene, { count: 10, envelope: OLD })
    await checkEncryptionKeys({ sql, envelope: BOTH })
    let batches = 0
    const dying = new Proxy(sql, {
      get: (target, name) =>
        name === 'begin' && ++batches > 2 ? () => Promise.reject(new Error('killed')) : Reflect.get(target, name),
    })
    await expect(rotateSecrets({ sql: dying, envelope: BOTH }, { batchRows: 3 })).rejects.toThrow('killed')
    await expect(checkEncryptionKeys({ sql, envelope: NEW })).rejects.toThrow(OLD.keyId)
    expect(await valuesOf(scene, BOTH)).toEqual(valuesUpTo(10))
    expect(await rotateSecrets({ sql, envelope: BOTH }, { batchRows: 3 })).toMatchObject({ resealed: 4 })
    await checkEncryptionKeys({ sql, envelope: NEW })
  })

  test('leaves what it cannot open, says so, and ends', async ({ world }) => {
    const scene = await createScene(world)
    const { sql } = scene
    await fill(scene, { count: 4, envelope: OLD })
    await fill({ ...scene, agentId: 'zzz' }, { count: 2, envelope: envelopeOf('a lost key') })
    await checkEncryptionKeys({ sql, envelope: envelopeOf('the new key', 'the old key', 'a lost key') })
    await sql`update secrets set sealed = ${OLD.seal('x', ['elsewhere'])} where name = 'NAME_2'`
    expect(await rotateSecrets({ sql, envelope: BOTH }, { batchRows: 1 })).toEqual({
      ...{ resealed: 2, damaged: 1, missingKeyIds: [envelopeOf('a lost key').keyId] },
    })
    await expect(checkEncryptionKeys({ sql, envelope: NEW })).rejects.toThrow(OLD.keyId)
  })

  test('is refused while no gateway has started with the new key', async ({ world }) => {
    const scene = await createScene(world)
    await fill(scene, { count: 1, envelope: OLD })
    await checkEncryptionKeys({ sql: scene.sql, envelope: OLD })
    await expect(rotateSecrets({ sql: scene.sql, envelope: BOTH })).rejects.toThrow('No gateway has started')
    expect(await valuesOf(scene, OLD)).toEqual(['value 0'])
  })
})
