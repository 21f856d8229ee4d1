import { describe, expect } from 'vitest'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { findApiKey } from '../accounts/api-keys.ts'
import { bootstrap } from '../accounts/bootstrap.ts'
import { completeSetup, createSetupLink, needsSetup } from './setup.ts'
import { createSignInRig, PASSWORD } from './test-rig.ts'

const origin = { ip: '203.0.113.7', userAgent: 'a browser', requestId: 'req_1' }
const person = { name: 'Ada', email: 'Ada@Example.com', passwordHash: 'hash' }

describe('a fresh install', () => {
  requirePostgres('replicas start at the same time')

  test('has a link at each replica; one use counts, however many try, and the key of the install stays theirs', async ({
    world,
  }) => {
    const { sql, signIn, authenticator, browser } = await createSignInRig(world)
    const key = await bootstrap(sql, { onlyFirst: true })
    const links = await Promise.all([1, 2, 3].map(() => createSetupLink(sql)))
    expect(new Set(links).size).toBe(3)
    expect(JSON.stringify(await sql`select * from setup_links`)).not.toContain(links[0])
    await expect(completeSetup(sql, { token: 'made up', person, origin })).rejects.toMatchObject({ code: 'not_found' })
    await sql`update setup_links set expires_at = now() where token_hash = encode(sha256(${links[0]!}::bytea), 'hex')`
    await expect(completeSetup(sql, { token: links[0]!, person, origin })).rejects.toMatchObject({ code: 'not_found' })

    const passwordHash = await (await (await signIn.current()).$context).password.hash(PASSWORD)
    const more = await Promise.all(Array.from({ length: 6 }, () => createSetupLink(sql)))
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
    const tries = await Promise.allSettled(
      [links[1]!, links[1]!, links[2]!, ...more].map((token, index) => {
        const own = { name: 'Ada', email: `Ada-${index}@Example.com`, passwordHash }
        return completeSetup(replicas[index % 3]!.sql, { token: token!, person: own, origin })
      }),
    )
    expect(tries.filter((one) => one.status === 'fulfilled')).toHaveLength(1)
    for (const one of tries) if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'conflict' })

    const email = `ada-${tries.findIndex((one) => one.status === 'fulfilled')}@example.com`
    const ada = browser()
    expect((await ada.send('/sign-in/email', { email, password: PASSWORD })).status).toBe(200)
    const cookie = ada.cookie()
    const actor = await authenticator.authenticate({ authorization: undefined, cookie, organizationSlug: undefined })
    expect(actor).toMatchObject({ kind: 'user', role: 'owner', organizationSlug: 'default' })
    expect(await findApiKey(sql, key!.token)).toMatchObject({ userId: actor.userId, role: 'owner' })
    expect(await sql`select 1 from users`).toHaveLength(1)
    expect(await sql`select action from audit_log order by id`).toEqual([
      { action: 'organization.set_up' },
      { action: 'sign_in.succeeded' },
    ])
    expect(await sql`select ip from audit_log where action = 'organization.set_up'`).toEqual([{ ip: origin.ip }])

    expect(await needsSetup(sql)).toBe(false)
    expect(await createSetupLink(sql)).toBeNull()
    // A key for the operator later makes no second owner that nobody can sign in as.
    await bootstrap(sql, { onlyFirst: false })
    expect(await sql`select 1 from users`).toHaveLength(1)
  })
})
