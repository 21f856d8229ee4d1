import { describe, expect } from 'vitest'
import { signInBySql } from '../../../tests/support/oauth.ts'
import { test } from '../../../tests/support/world.ts'
import type { Actor } from '../accounts/actor.ts'
import { listApps, withdrawApp } from './apps.ts'
import { CLI_CLIENT_ID } from './oauth-clients.ts'
import { createOAuthServer } from './oauth-server.ts'
import { removeExpiredGrants } from './oauth-tokens.ts'
import { createStage, exchange, PUBLIC_URL, REDIRECT, type Stage, type Tokens } from './test-oauth.ts'

const UNAUTHENTICATED = { code: 'unauthenticated' }

/** As after the time in which several processes of one client may refresh with the same token. */
async function endRotation(at: Stage) {
  await at.sql`
    update oauth_refresh_tokens set rotation_replay_expires_at = now() - interval '1 second'
    where user_id = ${at.person.userId} and rotated_at is not null`
}

/** What the owners of the person's organization can read. */
async function actionsOf(at: Stage) {
  const rows = await at.sql<{ action: string }[]>`
    select action from audit_log where organization_id = ${at.scene.organizationId} order by id`
  return rows.map(({ action }) => action)
}

async function isRefused(at: Stage, token: string) {
  at.accessTokens.forget()
  return at.actorOf(token).then(
    () => false,
    (error) => error.code === 'unauthenticated',
  )
}

describe('a refresh token', () => {
  test('is replaced at each use, and an old one ends all that came of it', async ({ world }) => {
    const at = await createStage(world)
    const first = await at.tokens()
    const second = (await at.refresh(first.refresh_token)).body
    expect(second.refresh_token).not.toBe(first.refresh_token)
    expect(await at.actorOf(second.access_token)).toMatchObject({ userId: at.person.userId })

    const device = await at.tokens()
    await endRotation(at)
    expect(await at.refresh(first.refresh_token)).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    expect(at.signals.access.length).toBeGreaterThan(0)
    expect((await actionsOf(at)).at(-1)).toBe('app.token_reused')
    expect((await at.refresh(second.refresh_token)).status).toBe(400)
    for (const { access_token } of [first, second]) expect(await isRefused(at, access_token)).toBe(true)
    // What the person approved on another device has nothing to do with it.
    expect(await isRefused(at, device.access_token)).toBe(false)
    expect((await at.refresh(device.refresh_token)).status).toBe(200)
  })

  test('that 20 processes use at once on two replicas gives all of them the same new one', async ({ world }) => {
    const at = await createStage(world)
    const other = await world.replica()
    const elsewhere = createOAuthServer(
      { handle: (request) => at.authOn(other.orm)().handler(request), sql: other.sql, signals: at.signals },
      { publicUrl: PUBLIC_URL },
    )
    const { refresh_token } = await at.tokens()
    const form = new URLSearchParams({ client_id: CLI_CLIENT_ID, grant_type: 'refresh_token', refresh_token })
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) => (index % 2 ? at.oauth : elsewhere).token(form, at.caller)),
    )
    const bodies = await Promise.all(answers.map((answer) => answer.json() as Promise<Tokens>))
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
    expect(new Set(bodies.map((body) => body.refresh_token)).size).toBe(1)
    expect(await at.actorOf(bodies[0]!.access_token)).toMatchObject({ kind: 'client' })
    expect((await at.refresh(bodies[0]!.refresh_token)).status).toBe(200)
  })

  test('leaves nothing alive when its family is ended while it is being replaced', async ({ world }) => {
    const at = await createStage(world)
    const clientId = await at.register({ redirect_uris: [REDIRECT] })
    const { refresh_token } = await at.tokens({ client_id: clientId })
    // Between the two steps of a rotation the rest of the family goes.
    await at.sql.unsafe(`
      create function end_family() returns trigger language plpgsql as $$ begin
        delete from oauth_refresh_tokens where client_id = new.client_id and revoked is not null; return new;
      end $$;
      create trigger end_family before insert on oauth_refresh_tokens for each row
      when (new.client_id = '${clientId}') execute function end_family()`)
    const { status, body } = await at.token({ grant_type: 'refresh_token', refresh_token, client_id: clientId })
    expect({ status, error: body.error }).toEqual({ status: 400, error: 'invalid_grant' })
    expect(body.access_token).toBeUndefined()
    expect(
      await at.sql`select 1 from oauth_access_tokens where client_id = ${clientId} and refresh_id is not null`,
    ).toEqual([])
    expect(await at.sql`select 1 from oauth_refresh_tokens where client_id = ${clientId}`).toEqual([])
  })

  test('gives no more scopes than it has, and works for its own client alone', async ({ world }) => {
    const at = await createStage(world)
    const { refresh_token } = await at.tokens({ scope: 'offline_access agents:read' })
    const more = await at.token({ grant_type: 'refresh_token', refresh_token, scope: 'agents:read agents:write' })
    expect(more).toMatchObject({ status: 400, body: { error: 'invalid_scope' } })
    const client_id = await at.register({ redirect_uris: [REDIRECT] })
    expect((await at.token({ grant_type: 'refresh_token', refresh_token, client_id })).status).toBe(400)
    const less = await at.token({ grant_type: 'refresh_token', refresh_token, scope: 'agents:read' })
    expect(less).toMatchObject({ status: 200, body: { scope: 'agents:read' } })
  })
})

describe('revoking', () => {
  const revoke = (at: Stage, token: string, client_id = CLI_CLIENT_ID) =>
    at.oauth.revoke(new URLSearchParams({ token, client_id }))

  test('an access token ends it, and says so to every replica', async ({ world }) => {
    const at = await createStage(world)
    const { access_token } = await at.tokens()
    expect(await at.actorOf(access_token)).toBeDefined()
    expect((await revoke(at, access_token)).status).toBe(200)
    expect(at.signals.access.length).toBeGreaterThan(0)
    expect(await isRefused(at, access_token)).toBe(true)
  })

  test('a refresh token ends every access token that came of it, and another device goes on', async ({ world }) => {
    const at = await createStage(world)
    const device = await at.tokens()
    const first = await at.tokens()
    const second = (await at.refresh(first.refresh_token)).body
    const third = (await at.refresh(second.refresh_token)).body
    expect((await revoke(at, third.refresh_token)).status).toBe(200)
    for (const { access_token } of [first, second, third]) expect(await isRefused(at, access_token)).toBe(true)
    for (const { refresh_token } of [first, second, third]) expect((await at.refresh(refresh_token)).status).toBe(400)
    expect(await isRefused(at, device.access_token)).toBe(false)
    expect((await at.refresh(device.refresh_token)).status).toBe(200)
  })

  test('a token of another client or a made-up one does nothing', async ({ world }) => {
    const at = await createStage(world)
    const { access_token, refresh_token } = await at.tokens()
    const stranger = await at.register({ redirect_uris: [REDIRECT] })
    for (const token of [access_token, refresh_token, 'lobuat_nothing', 'loburt_nothing', 'x']) {
      const answer = await revoke(at, token, stranger)
      expect(answer.status, token).toBe(200)
    }
    expect(await isRefused(at, access_token)).toBe(false)
    expect((await at.refresh(refresh_token)).status).toBe(200)
    expect((await revoke(at, access_token, 'nobody')).status).toBeGreaterThanOrEqual(400)
  })
})

describe('what a person let in', () => {
  const personOf = (at: Stage) => ({ ...at.scene.actor, kind: 'user', userId: at.person.userId }) as Actor

  test('is listed, and taken back with all its tokens and codes, for this person alone', async ({ world }) => {
    const at = await createStage(world)
    const colleague = await createStage(world)
    const tokens = await at.tokens()
    const theirs = await colleague.tokens()
    const pending = await at.code()
    const actor = personOf(at)
    const { apps } = await listApps(at.sql, { actor, cursor: undefined, limit: 10 })
    expect(apps).toEqual([
      {
        clientId: CLI_CLIENT_ID,
        name: 'Lobu command line',
        scopes: expect.arrayContaining(['agents:read']),
        since: expect.any(Date),
      },
    ])

    await withdrawApp(at, { actor, clientId: CLI_CLIENT_ID })
    expect(at.signals.access.length).toBeGreaterThan(0)
    expect(await isRefused(at, tokens.access_token)).toBe(true)
    expect((await at.refresh(tokens.refresh_token)).status).toBe(400)
    expect((await at.token(exchange(pending.code, pending.verifier))).status).toBe(400)
    expect(await isRefused(colleague, theirs.access_token)).toBe(false)
    expect((await listApps(at.sql, { actor, cursor: undefined, limit: 10 })).apps).toEqual([])
    expect(await actionsOf(at)).toEqual(['app.approved', 'app.approved', 'app.withdrawn'])
    await expect(withdrawApp(at, { actor, clientId: CLI_CLIENT_ID })).rejects.toMatchObject({ code: 'not_found' })
  })

  test('is listed page by page', async ({ world }) => {
    const at = await createStage(world)
    const ids = [
      CLI_CLIENT_ID,
      await at.register({ redirect_uris: [REDIRECT] }),
      await at.register({ redirect_uris: [REDIRECT] }),
    ]
    for (const client_id of ids) await at.tokens({ client_id })
    const seen: string[] = []
    let cursor: string | undefined
    do {
      const page = await listApps(at.sql, { actor: personOf(at), cursor, limit: 1 })
      seen.push(...page.apps.map(({ clientId }) => clientId))
      cursor = page.nextCursor ?? undefined
    } while (cursor)
    expect(seen.sort()).toEqual(ids.sort())
  })

  test('is no business of a program or a key', async ({ world }) => {
    const at = await createStage(world)
    const { access_token } = await at.tokens()
    for (const actor of [await at.actorOf(access_token), at.scene.actor]) {
      await expect(listApps(at.sql, { actor, cursor: undefined, limit: 1 })).rejects.toMatchObject({
        code: 'forbidden',
      })
      const withdrawal = withdrawApp(at, { actor, clientId: CLI_CLIENT_ID })
      await expect(withdrawal).rejects.toMatchObject({ code: 'forbidden' })
    }
  })
})

test('signing out ends the access tokens of that session; with offline_access the program can come back', async ({
  world,
}) => {
  const at = await createStage(world)
  const tokens = await at.tokens()
  const brief = await at.tokens({ scope: 'agents:read' })
  await at.signOut()
  for (const { access_token } of [tokens, brief]) expect(await isRefused(at, access_token)).toBe(true)
  expect((await at.refresh(tokens.refresh_token)).status).toBe(200)
  expect(brief.refresh_token).toBeUndefined()
  await expect(at.code()).rejects.toThrow()
})

test('expired grants, and clients that nobody let in, are removed; what is in use stays', async ({ world }) => {
  const at = await createStage(world)
  const used = await at.register({ redirect_uris: [REDIRECT] })
  const unused = await at.register({ redirect_uris: [REDIRECT] })
  await at.tokens({ client_id: used })
  const old = await at.tokens()
  const other = await signInBySql(at.sql, { secret: 'x' })
  await at.sql`update oauth_clients set created_at = now() - interval '8 days' where client_id in (${used}, ${unused})`
  await at.sql`
    update oauth_refresh_tokens set expires_at = now() - interval '2 days'
    where user_id = ${at.person.userId} and client_id = ${CLI_CLIENT_ID}`
  await at.sql`
    insert into device_codes (id, device_code, user_code, user_id, expires_at, status)
    values (${other.userId}, ${other.userId}, ${other.userId}, ${other.userId}, now() - interval '2 days', 'pending')`
  while ((await removeExpiredGrants(at.sql, { keepMs: 86_400_000, rowsMax: 100 })) === 100) {}
  const rows =
    await at.sql`select client_id from oauth_clients where client_id in (${used}, ${unused}, ${CLI_CLIENT_ID})`
  expect(rows.map((row) => row.client_id).sort()).toEqual([used, CLI_CLIENT_ID].sort())
  expect(await isRefused(at, old.access_token)).toBe(true)
  expect(await at.sql`select 1 from device_codes where id = ${other.userId}`).toEqual([])
  await expect(at.actorOf(old.access_token)).rejects.toMatchObject(UNAUTHENTICATED)
})
