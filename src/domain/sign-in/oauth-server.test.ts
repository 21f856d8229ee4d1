import { UnsecuredJWT } from 'jose'
import { describe, expect } from 'vitest'
import { makePkce, signInBySql } from '../../../tests/support/oauth.ts'
import { createScene } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { createSessionTokens } from '../accounts/session-token.ts'
import { readUserInfo } from '../accounts/userinfo.ts'
import { authorizeQuery, createStage, exchange, join, PUBLIC_URL, placeOf, REDIRECT, SECRET } from './test-oauth.ts'

const UNAUTHENTICATED = { code: 'unauthenticated' }

describe('a program that a person lets in', () => {
  test('acts for the person, with little where it asked for nothing', async ({ world }) => {
    const at = await createStage(world)
    const tokens = await at.tokens()
    expect(tokens).toMatchObject({
      access_token: expect.stringMatching(/^lobuat_/),
      refresh_token: expect.stringMatching(/^loburt_/),
      token_type: 'Bearer',
      expires_in: 3600,
      scope: 'openid profile email offline_access conversations:use agents:read',
    })
    const actor = await at.actorOf(tokens.access_token)
    expect(actor).toMatchObject({
      ...{ kind: 'client', credentialId: 'lobu-cli', role: 'member' },
      ...{ userId: at.person.userId, organizationId: at.scene.organizationId },
    })
    expect([...actor.permissions].sort()).toEqual(['agents:read', 'conversations:use'])
  })

  test('can do no more than the person, whatever was granted', async ({ world }) => {
    const at = await createStage(world, 'viewer')
    const { access_token } = await at.tokens({ scope: 'agents:read members:write conversations:use' })
    expect([...(await at.actorOf(access_token)).permissions]).toEqual(['agents:read'])
    await at.sql`update members set role = 'owner' where user_id = ${at.person.userId}`
    at.accessTokens.forget()
    expect((await at.actorOf(access_token)).permissions.has('members:write')).toBe(true)
  })

  test('works in the organization that is named, if the person belongs to it', async ({ world }) => {
    const at = await createStage(world)
    const second = await createScene(world, at.sql)
    const foreign = await createScene(world, at.sql)
    await join(second, at.person, 'admin')
    const { access_token } = await at.tokens()
    expect((await at.actorOf(access_token)).organizationId).toBe(at.scene.organizationId)
    expect(await at.actorOf(access_token, second.organizationId)).toMatchObject({ role: 'admin' })
    await expect(at.actorOf(access_token, foreign.organizationId)).rejects.toMatchObject({ code: 'forbidden' })
    await expect(at.actorOf(access_token, 'nobody')).rejects.toMatchObject({ code: 'not_found' })
    const info = await readUserInfo(at.sql, (await at.accessTokens.find(access_token))!)
    expect(info).toMatchObject({
      ...{ sub: at.person.userId, email: at.person.email, name: 'Ada', organization_slug: at.scene.organizationId },
      organizations: [{ slug: at.scene.organizationId }, { slug: second.organizationId }],
    })
  })

  test('learns no address and no name without their scopes', async ({ world }) => {
    const at = await createStage(world)
    const { access_token } = await at.tokens({ scope: 'agents:read' })
    const info = await readUserInfo(at.sql, (await at.accessTokens.find(access_token))!)
    expect(Object.keys(info!).sort()).toEqual(['organization_slug', 'organizations', 'sub'])
  })

  test('is refused when the client is disabled, the membership or the person is gone, or the time is over', async ({
    world,
  }) => {
    const at = await createStage(world)
    const clientId = await at.register({ redirect_uris: [REDIRECT] })
    const tokens = await at.tokens({ client_id: clientId })
    const changes = [
      () => at.sql`update oauth_clients set disabled = true where client_id = ${clientId}`,
      () => at.sql`update oauth_access_tokens set expires_at = now() where client_id = ${clientId}`,
      () => at.sql`delete from users where id = ${at.person.userId}`,
    ]
    for (const change of changes) {
      expect(await at.actorOf(tokens.access_token)).toBeDefined()
      await change()
      at.accessTokens.forget()
      await expect(at.actorOf(tokens.access_token)).rejects.toMatchObject(UNAUTHENTICATED)
      await at.sql`update oauth_clients set disabled = false where client_id = ${clientId}`
      await at.sql`update oauth_access_tokens set expires_at = now() + interval '1 hour' where client_id = ${clientId}`
    }
    const other = await createStage(world)
    const { access_token } = await other.tokens()
    await other.sql`delete from members where user_id = ${other.person.userId}`
    other.accessTokens.forget()
    await expect(other.actorOf(access_token)).rejects.toMatchObject({ code: 'forbidden' })
  })
})

describe('a code', () => {
  test('is good once, and coming twice ends what it was exchanged for', async ({ world }) => {
    const at = await createStage(world)
    const { code, verifier } = await at.code()
    const first = await at.token(exchange(code, verifier))
    expect(first.status).toBe(200)
    const again = await at.token(exchange(code, verifier))
    expect(again).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    expect(at.signals.access.length).toBeGreaterThan(0)
    at.accessTokens.forget()
    await expect(at.actorOf(first.body.access_token)).rejects.toMatchObject(UNAUTHENTICATED)
    expect((await at.refresh(first.body.refresh_token)).status).toBe(400)
  })

  test('needs its own verifier, redirect URI and client', async ({ world }) => {
    const at = await createStage(world)
    const stranger = await at.register({ redirect_uris: [REDIRECT] })
    const wrong: Record<string, string>[] = [
      { code_verifier: makePkce().verifier },
      { code_verifier: '' },
      { redirect_uri: 'http://127.0.0.1:49153/callback' },
      { redirect_uri: '' },
      { client_id: stranger },
      { client_secret: 'guessed' },
    ]
    for (const over of wrong) {
      const { code, verifier } = await at.code()
      const { status, body } = await at.token({ ...exchange(code, verifier), ...over })
      expect([400, 401], JSON.stringify({ over, body })).toContain(status)
      expect(body.access_token).toBeUndefined()
    }
  })

  test('is not given without PKCE by S256, nor for scopes that are none', async ({ world }) => {
    const at = await createStage(world)
    const bad: [Record<string, string>, string][] = [
      [{ code_challenge_method: 'plain' }, 'invalid_request'],
      [{ code_challenge: '', code_challenge_method: '' }, 'invalid_request'],
      [{ scope: 'agents:read everything' }, 'invalid_scope'],
      [{ scope: '*' }, 'invalid_scope'],
    ]
    for (const [over, error] of bad) {
      const back = placeOf(await at.oauth.authorize(authorizeQuery(over), at.browser))
      expect(back.origin, JSON.stringify(over)).toBe(new URL(REDIRECT).origin)
      expect(back.searchParams.get('error')).toBe(error)
      expect(back.searchParams.get('state')).toBe('xyz')
      expect(back.searchParams.has('code')).toBe(false)
    }
  })

  test('is never sent to a place that the client did not register', async ({ world }) => {
    const at = await createStage(world)
    const places = [
      ...['https://evil.example/callback', 'http://127.0.0.1:1/other', 'http://127.0.0.1.evil.example/callback'],
      ...['http://127.0.0.1@evil.example/callback', 'javascript:alert(1)', '//evil.example', '', `${REDIRECT}#x`],
      ...['http://127.0.0.1:49152/callback/../x', 'https://127.0.0.1:49152/callback'],
    ]
    for (const redirect_uri of places) {
      expect(await at.oauth.authorize(authorizeQuery({ redirect_uri }), at.browser), redirect_uri).toHaveProperty(
        'refused',
      )
    }
    const unknown = await at.oauth.authorize(authorizeQuery({ client_id: 'nobody' }), at.browser)
    expect(unknown).toHaveProperty('refused')
    const twice = authorizeQuery()
    twice.append('redirect_uri', 'https://evil.example/')
    expect(await at.oauth.authorize(twice, at.browser)).toHaveProperty('refused')
  })

  test('is for this gateway: another resource is refused, ours makes the same kind of token', async ({ world }) => {
    const at = await createStage(world)
    const foreign = authorizeQuery({ resource: 'https://evil.example/mcp' })
    expect(await at.oauth.authorize(foreign, at.browser)).toHaveProperty('refused')
    const { code, verifier } = await at.code({ resource: `${PUBLIC_URL}/mcp` })
    const elsewhere = await at.token({ ...exchange(code, verifier), resource: 'https://evil.example/mcp' })
    expect(elsewhere.body.error).toBe('invalid_target')
    const { body } = await at.token({ ...exchange(code, verifier), resource: `${PUBLIC_URL}/mcp` })
    expect(body.access_token).toMatch(/^lobuat_/)
  })
})

describe('the person', () => {
  test('is sent to sign in and back to the same request, and only once', async ({ world }) => {
    const at = await createStage(world)
    const query = authorizeQuery({ prompt: 'login', max_age: '0' })
    for (const caller of [at.caller, at.browser]) {
      const place = placeOf(await at.oauth.authorize(query, caller))
      expect(place.pathname).toBe('/sign-in')
      const back = new URL(place.searchParams.get('next')!, PUBLIC_URL)
      expect(place.searchParams.get('next')).toMatch(/^\/oauth\/authorize\?/)
      expect(placeOf(await at.oauth.authorize(back.searchParams, at.browser)).pathname).toBe('/consent')
    }
  })

  test('who denies sends the program away with nothing', async ({ world }) => {
    const at = await createStage(world)
    const consent = placeOf(await at.oauth.authorize(authorizeQuery(), at.browser))
    const denial = { accept: false, signedQuery: consent.search.slice(1), person: at.reader }
    const back = placeOf(await at.oauth.decide(denial, at.browser))
    expect(back.href).toMatch(/^http:\/\/127\.0\.0\.1:49152\/callback\?.*error=access_denied.*state=xyz/)
  })

  test('decides what was asked: a changed question has no answer', async ({ world }) => {
    const at = await createStage(world)
    const { search } = placeOf(await at.oauth.authorize(authorizeQuery({ scope: 'agents:read' }), at.browser))
    const changed = search.slice(1).replace('agents%3Aread', 'organization%3Adelete')
    expect(changed).not.toBe(search.slice(1))
    for (const signedQuery of [
      changed,
      '',
      search.slice(1).replace(/sig=[^&]*/, ''),
      `${search.slice(1)}&scope=email`,
    ]) {
      for (const accept of [true, false]) {
        expect(await at.oauth.decide({ accept, signedQuery, person: at.reader }, at.browser)).toHaveProperty('refused')
      }
    }
    const nobody = await at.oauth.decide({ accept: true, signedQuery: search.slice(1), person: at.reader }, at.caller)
    expect('refused' in nobody || !nobody.location.includes('code=')).toBe(true)
  })

  test('is asked each time by programs on the same machine, and once by those of an https place', async ({ world }) => {
    const at = await createStage(world)
    await at.code()
    for (const prompt of ['', 'none']) {
      const again = placeOf(await at.oauth.authorize(authorizeQuery({ prompt }), at.browser))
      expect(again.pathname, 'lobu-cli is asked about again').toBe('/consent')
    }
    const redirect_uri = 'https://client.example/callback'
    const client_id = await at.register({ redirect_uris: [redirect_uri] })
    await at.code({ client_id, redirect_uri })
    const known = placeOf(await at.oauth.authorize(authorizeQuery({ client_id, redirect_uri }), at.browser))
    expect(known.origin).toBe('https://client.example')
    const more = authorizeQuery({ client_id, redirect_uri, scope: 'members:write' })
    expect(placeOf(await at.oauth.authorize(more, at.browser)).pathname).toBe('/consent')
  })
})

test('no other kind of token is an access token, and an access token is no other kind', async ({ world }) => {
  const at = await createStage(world)
  const tokens = await at.tokens()
  const session = await createSessionTokens(SECRET).sign({
    ...{ organizationId: at.scene.organizationId, organizationSlug: at.scene.organizationId },
    ...{ agentId: 'assistant', userId: at.person.userId, conversationId: 'conv' },
  })
  expect(tokens.id_token.split('.')).toHaveLength(3)
  const cookieToken = decodeURIComponent(at.person.cookie.split('=')[1]!).split('.')[0]!
  const unsigned = new UnsecuredJWT({}).setSubject(at.person.userId).setAudience(PUBLIC_URL).encode()
  for (const other of [tokens.id_token, tokens.refresh_token, session.token, cookieToken, unsigned]) {
    expect(await at.accessTokens.find(other)).toBeNull()
    expect(await at.accessTokens.find(`lobuat_${other}`)).toBeNull()
    if (other !== session.token) await expect(at.actorOf(other)).rejects.toMatchObject(UNAUTHENTICATED)
  }
  expect((await at.refresh(tokens.access_token)).status).toBe(400)
  expect(await createSessionTokens(SECRET).verify(tokens.access_token)).toBeNull()
  const stranger = await signInBySql(at.sql, { secret: 'some other secret of at least 32 characters' })
  const forged = placeOf(await at.oauth.authorize(authorizeQuery(), { ...at.caller, cookie: stranger.cookie }))
  expect(forged.pathname).toBe('/sign-in')
})
