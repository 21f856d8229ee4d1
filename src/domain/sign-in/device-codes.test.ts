import { describe, expect } from 'vitest'
import { signInBySql } from '../../../tests/support/oauth.ts'
import { test } from '../../../tests/support/world.ts'
import { decideDeviceRequest, openDeviceRequest } from './device-codes.ts'
import { CLI_CLIENT_ID, ClientMetadata } from './oauth-clients.ts'
import { createStage, DEVICE_GRANT, REDIRECT, SECRET, type Stage } from './test-oauth.ts'

interface Codes {
  device_code: string
  user_code: string
  verification_uri: string
  verification_uri_complete: string
  interval: number
}

async function ask(at: Stage, over: Record<string, string> = {}) {
  const answer = await at.oauth.device(new URLSearchParams({ client_id: CLI_CLIENT_ID, ...over }), at.caller)
  return { status: answer.status, body: (await answer.json()) as Codes & { error: string } }
}

const actorOf = (userId: string) => ({ kind: 'user', credentialId: 'session', userId }) as const

/** One poll of the device; the pause it owes between two polls counts as kept. */
async function poll(at: Stage, device_code: string, over: Record<string, string> = {}) {
  await at.sql`update device_codes set last_polled_at = null where device_code = ${device_code}`
  return at.token({ grant_type: DEVICE_GRANT, device_code, ...over })
}

describe('a device', () => {
  test('waits for the person, who opens the request by its code and approves', async ({ world }) => {
    const at = await createStage(world)
    const { body } = await ask(at)
    expect(body).toMatchObject({ verification_uri: 'http://localhost:8787/device', interval: 5 })
    expect(body.verification_uri_complete).toBe(`http://localhost:8787/device?user_code=${body.user_code}`)
    expect((await poll(at, body.device_code)).body.error).toBe('authorization_pending')

    const { userId } = at.person
    const typed = ` ${body.user_code.slice(0, 4).toLowerCase()}-${body.user_code.slice(4)} `
    const request = await openDeviceRequest(at.sql, { typed, userId })
    expect(request).toMatchObject({ userCode: body.user_code, client: { name: 'Lobu command line' } })
    expect((await poll(at, body.device_code)).body.error).toBe('authorization_pending')
    expect(await decideDeviceRequest(at.sql, { userCode: typed, actor: actorOf(userId), accept: true })).toBe(true)

    const { status, body: tokens } = await poll(at, body.device_code)
    expect(status, JSON.stringify(tokens)).toBe(200)
    expect(await at.actorOf(tokens.access_token)).toMatchObject({ kind: 'client', userId })
    const next = (await at.refresh(tokens.refresh_token)).body
    expect((await poll(at, body.device_code)).body.error).toBe('invalid_grant')

    await at.oauth.revoke(new URLSearchParams({ client_id: CLI_CLIENT_ID, token: next.refresh_token }))
    at.accessTokens.forget()
    for (const { access_token } of [tokens, next]) expect(await at.accessTokens.find(access_token)).toBeNull()
  })

  test('that polls too often is told to slow down', async ({ world }) => {
    const at = await createStage(world)
    const { body } = await ask(at)
    await poll(at, body.device_code)
    const soon = await at.token({ grant_type: DEVICE_GRANT, device_code: body.device_code })
    expect(soon.body.error).toBe('slow_down')
  })

  test('that was denied, or came too late, gets nothing', async ({ world }) => {
    const at = await createStage(world)
    const { userId } = at.person
    const denied = (await ask(at)).body
    await openDeviceRequest(at.sql, { typed: denied.user_code, userId })
    const decision = { userCode: denied.user_code, actor: actorOf(userId) }
    expect(await decideDeviceRequest(at.sql, { ...decision, accept: false })).toBe(true)
    expect(await decideDeviceRequest(at.sql, { ...decision, accept: true })).toBe(false)
    expect((await poll(at, denied.device_code)).body.error).toBe('access_denied')

    const late = (await ask(at)).body
    await at.sql`update device_codes set expires_at = now() where device_code = ${late.device_code}`
    expect(await openDeviceRequest(at.sql, { typed: late.user_code, userId })).toBeNull()
    expect(await decideDeviceRequest(at.sql, { userCode: late.user_code, actor: actorOf(userId), accept: true })).toBe(
      false,
    )
    expect((await poll(at, late.device_code)).body.error).toBe('expired_token')
  })

  test('belongs to the person who opened its request first, whatever the device says', async ({ world }) => {
    const at = await createStage(world)
    const other = await signInBySql(at.sql, { secret: SECRET })
    const { body } = await ask(at, { user_id: other.userId })
    expect(await openDeviceRequest(at.sql, { typed: body.user_code, userId: at.person.userId })).not.toBeNull()
    expect(await openDeviceRequest(at.sql, { typed: body.user_code, userId: other.userId })).toBeNull()
    const decision = { userCode: body.user_code, actor: actorOf(other.userId), accept: true }
    expect(await decideDeviceRequest(at.sql, decision)).toBe(false)
  })

  test('cannot be approved unseen: a request that nobody opened is nobody’s', async ({ world }) => {
    const at = await createStage(world)
    const { body } = await ask(at)
    const decision = { userCode: body.user_code, actor: actorOf(at.person.userId), accept: true }
    expect(await decideDeviceRequest(at.sql, decision)).toBe(false)
  })

  test('of another client cannot have the token', async ({ world }) => {
    const at = await createStage(world)
    const { body } = await ask(at)
    const { userId } = at.person
    await openDeviceRequest(at.sql, { typed: body.user_code, userId })
    await decideDeviceRequest(at.sql, { userCode: body.user_code, actor: actorOf(userId), accept: true })
    const client_id = await at.register({ redirect_uris: [REDIRECT] })
    expect((await poll(at, body.device_code, { client_id })).status).toBe(400)
    expect((await poll(at, body.device_code)).status).toBe(200)
  })

  test('needs a known client and known scopes, and asks for this gateway', async ({ world }) => {
    const at = await createStage(world)
    const bad: [Record<string, string>, string][] = [
      [{ client_id: 'nobody' }, 'invalid_client'],
      [{ client_id: '' }, 'invalid_request'],
      [{ scope: 'agents:read *' }, 'invalid_scope'],
      [{ resource: 'https://evil.example/' }, 'invalid_target'],
    ]
    for (const [over, error] of bad)
      expect(await ask(at, over), JSON.stringify(over)).toMatchObject({ body: { error } })
  })
})

test('a person can try so many codes, also all at once, and no more', async ({ world }) => {
  const at = await createStage(world)
  const { userId } = at.person
  const tries = Array.from({ length: 25 }, (_, index) => openDeviceRequest(at.sql, { typed: `WRONG${index}`, userId }))
  const outcomes = await Promise.all(tries)
  expect(outcomes.filter((outcome) => outcome === null)).toHaveLength(20)
  const { body } = await ask(at)
  expect(await openDeviceRequest(at.sql, { typed: body.user_code, userId })).toBe('too many tries')
  const other = await signInBySql(at.sql, { secret: SECRET })
  expect(await openDeviceRequest(at.sql, { typed: body.user_code, userId: other.userId })).not.toBeNull()
})

describe('registering a client', () => {
  const register = async (at: Stage, metadata: object) => {
    const answer = await at.oauth.register(ClientMetadata.parse(metadata), at.caller)
    return { status: answer.status, body: (await answer.json()) as Record<string, unknown> }
  }

  test('works for a loopback address without saying that it is native, and gives no secret', async ({ world }) => {
    const at = await createStage(world)
    const { status, body } = await register(at, {
      ...{
        client_name: 'Editor',
        token_endpoint_auth_method: 'client_secret_basic',
        grant_types: ['implicit', 'refresh_token'],
      },
      redirect_uris: [
        'http://127.0.0.1:33418/',
        'http://localhost/cb',
        'https://editor.example/redirect',
        'com.example.app:/cb',
      ],
      skip_consent: true,
      scope: '*',
    })
    expect(status, JSON.stringify(body)).toBe(201)
    expect(body).toMatchObject({
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      client_name: 'Editor',
    })
    expect(body.client_secret).toBeUndefined()
    const [row] = await at.sql`
      select skip_consent, client_secret, user_id from oauth_clients where client_id = ${body.client_id as string}`
    expect(row).toEqual({ skip_consent: null, client_secret: null, user_id: null })
  })

  test('is refused for places to which nobody may be sent', async ({ world }) => {
    const at = await createStage(world)
    const places = [
      ...[
        'javascript:alert(1)',
        'data:text/html,x',
        'http://evil.example/cb',
        'https://localhost/cb',
        'file:///etc/passwd',
      ],
      ...[
        'https://user@evil.example/cb',
        'https://evil.example/cb#x',
        'not a uri',
        'vbscript:x',
        'http://127.0.0.2/cb',
      ],
    ]
    for (const place of places) {
      const { status, body } = await register(at, { redirect_uris: [place] })
      expect(status, place).toBe(400)
      expect(body.client_id, place).toBeUndefined()
    }
    expect((await register(at, {})).status).toBe(400)
  })

  test('has bounds', async () => {
    const uri = 'https://client.example/cb'
    const tooMuch = [
      { redirect_uris: Array.from({ length: 11 }, () => uri) },
      { redirect_uris: [`${uri}${'x'.repeat(500)}`] },
      { redirect_uris: [uri], client_name: 'x'.repeat(101) },
      { redirect_uris: uri },
    ]
    for (const metadata of tooMuch) expect(ClientMetadata.safeParse(metadata).success).toBe(false)
  })

  test('is limited for one address, whatever replica it asks', async ({ world }) => {
    const at = await createStage(world)
    const other = await createStage(world)
    const answers: number[] = []
    for (let index = 0; index < 22; index++) {
      const { oauth } = index % 2 ? at : other
      const answer = await oauth.register({ redirect_uris: [REDIRECT] }, at.caller)
      answers.push(answer.status)
    }
    expect(answers.filter((status) => status === 201)).toHaveLength(20)
    expect(answers.slice(20)).toEqual([429, 429])
  })
})
