import { beforeEach, describe, expect } from 'vitest'
import { createScene } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import type { Sql } from '../../db/client.ts'
import { checkEncryptionKeys, discardLostKey } from './canary.ts'
import { setSecret } from './secrets.ts'
import { envelopeOf } from './test-keys.ts'

const FIRST = envelopeOf('the first key')
const SECOND = envelopeOf('the second key')
const BOTH = envelopeOf('the second key', 'the first key')

const keysIn = async (sql: Sql) => {
  const rows = await sql<{ id: string }[]>`select key_id as id from encryption_canaries`
  return rows.map(({ id }) => id).sort()
}

// The canaries are the whole database's.
beforeEach<{ world: World }>(async ({ world }) => {
  const { sql } = await world.replica()
  await sql`delete from secrets`
  await sql`delete from encryption_canaries`
})

describe('at its start a gateway', () => {
  test('notes its key, and starts with it again', async ({ world }) => {
    const { sql } = await world.replica()
    for (let start = 0; start < 2; start++) await checkEncryptionKeys({ sql, envelope: FIRST })
    expect(await keysIn(sql)).toEqual([FIRST.keyId])
  })

  test('refuses another key in one sentence that says what to do', async ({ world }) => {
    const { sql } = await world.replica()
    await checkEncryptionKeys({ sql, envelope: FIRST })
    const refused = checkEncryptionKeys({ sql, envelope: SECOND })
    await expect(refused).rejects.toThrow(`sealed by the key ${FIRST.keyId}, which this process does not have`)
    await expect(refused).rejects.toThrow('ENCRYPTION_KEYS_OLD')
    expect(await keysIn(sql)).toEqual([FIRST.keyId])
  })

  test('takes a new key when the old one is listed, and then the old configuration is the one that is refused', async ({
    world,
  }) => {
    const { sql } = await world.replica()
    await checkEncryptionKeys({ sql, envelope: FIRST })
    await checkEncryptionKeys({ sql, envelope: BOTH })
    expect(await keysIn(sql)).toEqual([FIRST.keyId, SECOND.keyId].sort())
    await expect(checkEncryptionKeys({ sql, envelope: FIRST })).rejects.toThrow(SECOND.keyId)
  })

  test('refuses when something is sealed by a key that nobody noted', async ({ world }) => {
    const scene = await createScene(world)
    const deps = { ...scene, envelope: FIRST }
    await setSecret(deps, { ...scene, agentId: undefined, name: 'A', value: 'x', allowedHosts: [] })
    await expect(checkEncryptionKeys({ sql: scene.sql, envelope: SECOND })).rejects.toThrow(FIRST.keyId)
    await checkEncryptionKeys({ sql: scene.sql, envelope: BOTH })
  })

  test('refuses a canary that was changed', async ({ world }) => {
    const { sql } = await world.replica()
    await checkEncryptionKeys({ sql, envelope: FIRST })
    await sql`update encryption_canaries set sealed = ${FIRST.seal('the canary sings', ['elsewhere'])}`
    await expect(checkEncryptionKeys({ sql, envelope: FIRST })).rejects.toThrow('is damaged')
  })
})

describe('of replicas that start at once', () => {
  test('all with the same key start', async ({ world }) => {
    const replicas = await Promise.all(Array.from({ length: 4 }, () => world.replica()))
    await Promise.all(replicas.map(({ sql }) => checkEncryptionKeys({ sql, envelope: FIRST })))
    expect(await keysIn(replicas[0]!.sql)).toEqual([FIRST.keyId])
  })

  test('with different keys one starts, whichever it is', async ({ world }) => {
    const replicas = await Promise.all(Array.from({ length: 6 }, () => world.replica()))
    const starts = replicas.map(({ sql }, at) => checkEncryptionKeys({ sql, envelope: envelopeOf(`key ${at}`) }))
    const outcomes = await Promise.allSettled(starts)
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(await keysIn(replicas[0]!.sql)).toHaveLength(1)
  })
})

describe('what a lost key has sealed', () => {
  test('is removed on request, and nothing else; then a gateway without it starts', async ({ world }) => {
    const scene = await createScene(world)
    const { sql } = scene
    for (const [name, envelope] of [
      ['LOST', FIRST],
      ['KEPT', SECOND],
    ] as const) {
      await checkEncryptionKeys({ sql, envelope: BOTH })
      await setSecret({ ...scene, envelope }, { ...scene, agentId: undefined, name, value: 'x', allowedHosts: [] })
    }
    await sql`insert into encryption_canaries (key_id, sealed) values (${FIRST.keyId}, 'x') on conflict do nothing`
    await expect(checkEncryptionKeys({ sql, envelope: SECOND })).rejects.toThrow(FIRST.keyId)
    expect(await discardLostKey({ sql, envelope: SECOND }, FIRST.keyId)).toBe(1)
    await checkEncryptionKeys({ sql, envelope: SECOND })
    expect(await sql`select name from secrets`).toEqual([{ name: 'KEPT' }])
  })

  test('is not lost while the key is at hand', async ({ world }) => {
    const { sql } = await world.replica()
    await expect(discardLostKey({ sql, envelope: BOTH }, FIRST.keyId)).rejects.toThrow('is at hand')
    await expect(discardLostKey({ sql, envelope: BOTH }, '0123456789ab')).rejects.toThrow('Nothing is sealed')
  })
})
