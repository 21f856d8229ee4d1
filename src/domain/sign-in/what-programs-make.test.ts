import { describe, expect } from 'vitest'
import { test, type World } from '../../../tests/support/world.ts'
import type { Actor } from '../accounts/actor.ts'
import { createAuthenticator } from '../accounts/authenticate.ts'
import { createPersonLookup, createSessionCookies } from '../accounts/browser-session.ts'
import { createSessionTokens, type SessionClaims } from '../accounts/session-token.ts'
import { type CreateKey, createKey } from '../keys/create.ts'
import { listKeys } from '../keys/list.ts'
import { rotateKey } from '../keys/rotate.ts'
import { listApps, withdrawApp } from './apps.ts'
import { COOKIE_PREFIX } from './better-auth.ts'
import { CLI_CLIENT_ID } from './oauth-clients.ts'
import { removeExpiredGrants } from './oauth-tokens.ts'
import { createStage as createOAuthStage, PUBLIC_URL, SECRET } from './test-oauth.ts'

async function createStage(world: World, role = 'admin') {
  const at = await createOAuthStage(world, role)
  const tokens = createSessionTokens(SECRET)
  const people = createPersonLookup({
    sql: at.sql,
    cookies: createSessionCookies({ secret: SECRET, publicUrl: PUBLIC_URL, prefix: COOKIE_PREFIX }),
  })
  const { sql, accessTokens } = at
  const authenticator = createAuthenticator({ sql, tokens, people, accessTokens })
  const who = { authorization: undefined as string | undefined, organizationSlug: undefined }
  const actorOf = (token: string) => authenticator.authenticate({ ...who, authorization: `Bearer ${token}` })
  const inBrowser = () => authenticator.authenticate({ ...who, cookie: at.person.cookie })
  const isLetIn = (token: string) => {
    authenticator.forget()
    return actorOf(token).then(
      () => true,
      () => false,
    )
  }
  const make = (actor: Actor, over: Partial<CreateKey> = {}) =>
    createKey(sql, {
      actor,
      name: 'Key',
      scope: 'agents:read keys:write',
      expiresAt: null,
      ofOrganization: false,
      ...over,
    })
  const withdraw = async () => withdrawApp(at, { actor: await inBrowser(), clientId: CLI_CLIENT_ID })
  const { organizationId, agentId } = at.scene
  const sign = async (made: Partial<SessionClaims>) => {
    const conversationId = await at.scene.open()
    const claims = { organizationId, organizationSlug: organizationId, agentId, userId: 'u', conversationId }
    return (await tokens.sign({ ...claims, ...made })).token
  }
  /** What a program gets that may make keys. */
  const letIn = (over: Record<string, string> = {}) =>
    at.tokens({ scope: 'agents:read keys:write conversations:use offline_access', ...over })
  return { ...at, letIn, actorOf, inBrowser, isLetIn, make, withdraw, sign }
}

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'done',
    (error) => error.code,
  )

describe('an API key that a program made', () => {
  test('ends with what it was given, and so do those made with it or in its place; the person’s own stay', async ({
    world,
  }) => {
    const at = await createStage(world)
    const { access_token } = await at.letIn()
    const program = await at.actorOf(access_token)
    const [made, rotated] = [await at.make(program), await at.make(program)]
    const child = await at.make(await at.actorOf(made.token))
    const grandchild = await at.make(await at.actorOf(child.token))
    const person = await at.inBrowser()
    const instead = await rotateKey(at, { actor: person, keyId: rotated.id, overlapMs: 60_000 })
    const own = await at.make(person)
    const taken = await rotateKey(at, { actor: program, keyId: (await at.make(person)).id, overlapMs: 0 })
    const programs = [made, rotated, child, grandchild, instead, taken]
    for (const { token } of [...programs, own]) expect(await at.isLetIn(token)).toBe(true)

    await at.withdraw()
    for (const { token } of programs) expect(await at.isLetIn(token)).toBe(false)
    expect(await at.isLetIn(own.token)).toBe(true)
    const listed = await listKeys(at.sql, { actor: person, limit: 10 })
    expect(listed.filter(({ replacedBy }) => replacedBy === null).map(({ id }) => id)).toEqual([own.id])
    const [entry] = await at.sql`
      select details from audit_log where organization_id = ${at.scene.organizationId} and action = 'app.withdrawn'`
    expect(entry!.details).toEqual({ keys: programs.length })
  })

  test('is never the organization’s own, which nothing of one person’s could end', async ({ world }) => {
    const at = await createStage(world)
    const program = await at.actorOf((await at.letIn()).access_token)
    const person = await at.inBrowser()
    const own = await at.make(person, { ofOrganization: true })
    for (const actor of [program, await at.actorOf((await at.make(program)).token)]) {
      expect(await codeOf(at.make(actor, { ofOrganization: true }))).toBe('forbidden')
      expect(await codeOf(rotateKey(at, { actor, keyId: own.id, overlapMs: 0 }))).toBe('forbidden')
    }
    expect(await at.isLetIn(own.token)).toBe(true)
  })

  test('keeps its program on the person’s list when every token has expired, and can be ended there', async ({
    world,
  }) => {
    const at = await createStage(world)
    const { token } = await at.make(await at.actorOf((await at.letIn()).access_token))
    const actor = await at.inBrowser()
    await at.sql`delete from oauth_consents where user_id = ${at.person.userId}`
    await at.sql`update oauth_access_tokens set expires_at = now() - interval '2 days' where user_id = ${at.person.userId}`
    await at.sql`update oauth_refresh_tokens set expires_at = now() - interval '2 days' where user_id = ${at.person.userId}`
    while ((await removeExpiredGrants(at.sql, { keepMs: 0, rowsMax: 100 })) === 100);
    const { apps } = await listApps(at.sql, { actor, cursor: undefined, limit: 10 })
    expect(apps).toMatchObject([{ clientId: CLI_CLIENT_ID, scopes: ['agents:read', 'keys:write'] }])
    expect(await at.isLetIn(token)).toBe(true)
    await at.withdraw()
    expect(await at.isLetIn(token)).toBe(false)
    expect(await codeOf(at.withdraw())).toBe('not_found')
  })

  test('ends when a refresh token of the program turns out to be stolen', async ({ world }) => {
    const at = await createStage(world)
    const first = await at.letIn()
    await at.refresh(first.refresh_token)
    const { token } = await at.make(await at.actorOf(first.access_token))
    await at.sql`
      update oauth_refresh_tokens set rotation_replay_expires_at = now() - interval '1 second'
      where user_id = ${at.person.userId} and rotated_at is not null`
    expect((await at.refresh(first.refresh_token)).status).toBe(400)
    expect(await at.isLetIn(token)).toBe(false)
  })

  test('is refused while its program is disabled, and keeps a registered one from being forgotten', async ({
    world,
  }) => {
    const at = await createStage(world)
    const clientId = await at.register({ redirect_uris: ['http://127.0.0.1:49152/callback'] })
    const { token } = await at.make(await at.actorOf((await at.letIn({ client_id: clientId })).access_token))
    await at.sql`update oauth_clients set disabled = true where client_id = ${clientId}`
    expect(await at.isLetIn(token)).toBe(false)
    await at.sql`
      update oauth_clients set disabled = false, created_at = now() - interval '8 days' where client_id = ${clientId}`
    for (const table of ['oauth_consents', 'oauth_access_tokens', 'oauth_refresh_tokens']) {
      await at.sql`delete from ${at.sql(table)} where client_id = ${clientId}`
    }
    while ((await removeExpiredGrants(at.sql, { keepMs: 0, rowsMax: 100 })) === 100);
    expect(await at.isLetIn(token)).toBe(true)
  })
})

describe('a session token', () => {
  test('made in a browser ends when the person signs out there', async ({ world }) => {
    const at = await createStage(world)
    const { userId, credentialId } = await at.inBrowser()
    const token = await at.sign({ memberId: userId, sessionId: credentialId })
    const older = await at.sign({ memberId: userId })
    const stranger = await at.sign({ memberId: userId, sessionId: 'of-nobody' })
    expect([await at.isLetIn(token), await at.isLetIn(stranger)]).toEqual([true, false])
    await at.signOut()
    expect([await at.isLetIn(token), await at.isLetIn(older)]).toEqual([false, true])
  })

  test('made in a session that has expired is refused', async ({ world }) => {
    const at = await createStage(world)
    const { userId, credentialId } = await at.inBrowser()
    const token = await at.sign({ memberId: userId, sessionId: credentialId })
    await at.sql`update user_sessions set expires_at = now() - interval '1 second' where id = ${credentialId}`
    expect(await at.isLetIn(token)).toBe(false)
  })

  test('made by a program ends with what the program was given, not when that is renewed', async ({ world }) => {
    const at = await createStage(world)
    const { access_token, refresh_token } = await at.letIn()
    const { userId, credentialId } = await at.actorOf(access_token)
    const token = await at.sign({ memberId: userId, clientId: credentialId })
    expect(credentialId).toBe(CLI_CLIENT_ID)
    expect(await at.isLetIn(token)).toBe(true)
    await at.refresh(refresh_token)
    expect(await at.isLetIn(token)).toBe(true)
    await at.withdraw()
    expect(await at.isLetIn(token)).toBe(false)
  })
})
