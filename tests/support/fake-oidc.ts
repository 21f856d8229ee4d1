import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'

export interface FakePerson {
  sub: string
  email: string
  name: string
  email_verified?: boolean
}

/** Ways in which a provider can be wrong or hostile. */
export interface Misbehaviour {
  issuer?: string
  audience?: string
  nonce?: string
  /** Signed with a key that is not in the set. */
  forged?: boolean
  expired?: boolean
}

/** An OpenID Connect provider on the loopback interface: strict about everything that a client must get right. */
export interface FakeOidc {
  readonly issuer: string
  readonly client: { clientId: string; clientSecret: string }
  /** Who is signed in there: whoever comes to authorize is sent back at once as this person. */
  signInAs(person: FakePerson): void
  misbehave(how: Misbehaviour): void
  /** What was asked of it, newest last: `GET /authorize` and so on. */
  readonly asked: string[]
  stop(): Promise<void>
}

interface Grant {
  person: FakePerson
  redirectUri: string
  challenge: string
  nonce: string | null
}

export async function startFakeOidc(): Promise<FakeOidc> {
  const { privateKey, publicKey } = await generateKeyPair('RS256')
  const stranger = await generateKeyPair('RS256')
  const client = { clientId: 'lobu-test', clientSecret: 'a secret between the two of them' }
  const grants = new Map<string, Grant>()
  const asked: string[] = []
  let person: FakePerson = { sub: 'nobody', email: 'nobody@example.com', name: 'Nobody' }
  let wrong: Misbehaviour = {}
  const server = createServer((req, res) => {
    answer(req, res).catch((error: unknown) => send(res, 500, { error: String(error) }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

  async function answer(req: IncomingMessage, res: ServerResponse) {
    const url = new URL(req.url ?? '/', issuer)
    asked.push(`${req.method} ${url.pathname}`)
    if (url.pathname === '/.well-known/openid-configuration') return send(res, 200, discovery(issuer))
    if (url.pathname === '/keys') {
      return send(res, 200, { keys: [{ ...(await exportJWK(publicKey)), kid: 'one', alg: 'RS256', use: 'sig' }] })
    }
    if (url.pathname === '/authorize') return authorize(url, res)
    if (url.pathname === '/token' && req.method === 'POST') return token(new URLSearchParams(await text(req)), res)
    send(res, 404, { error: 'not_found' })
  }

  function authorize({ searchParams: query }: URL, res: ServerResponse) {
    const redirectUri = query.get('redirect_uri') ?? ''
    const faults = [
      query.get('client_id') !== client.clientId && 'client_id',
      query.get('response_type') !== 'code' && 'response_type',
      query.get('code_challenge_method') !== 'S256' && 'code_challenge_method',
      !query.get('state') && 'state',
      !query.get('scope')?.split(' ').includes('openid') && 'scope',
    ].filter(Boolean)
    if (faults.length > 0) return send(res, 400, { error: 'invalid_request', faults })
    const code = randomBytes(16).toString('hex')
    grants.set(code, { person, redirectUri, challenge: query.get('code_challenge') ?? '', nonce: query.get('nonce') })
    const back = new URL(redirectUri)
    back.searchParams.set('code', code)
    back.searchParams.set('state', query.get('state') ?? '')
    back.searchParams.set('iss', issuer)
    res.writeHead(302, { location: back.href }).end()
  }

  async function token(form: URLSearchParams, res: ServerResponse) {
    const code = form.get('code') ?? ''
    const grant = grants.get(code)
    grants.delete(code)
    const challenge = createHash('sha256')
      .update(form.get('code_verifier') ?? '')
      .digest('base64url')
    if (form.get('client_id') !== client.clientId || form.get('client_secret') !== client.clientSecret) {
      return send(res, 401, { error: 'invalid_client' })
    }
    if (!grant || grant.challenge !== challenge || grant.redirectUri !== form.get('redirect_uri')) {
      return send(res, 400, { error: 'invalid_grant' })
    }
    const { sub, ...claims } = grant.person
    const idToken = await new SignJWT({ email_verified: true, ...claims, nonce: wrong.nonce ?? grant.nonce })
      .setProtectedHeader({ alg: 'RS256', kid: 'one' })
      .setSubject(sub)
      .setIssuer(wrong.issuer ?? issuer)
      .setAudience(wrong.audience ?? client.clientId)
      .setIssuedAt()
      .setExpirationTime(wrong.expired ? '-1h' : '5m')
      .sign(wrong.forged ? stranger.privateKey : privateKey)
    send(res, 200, { access_token: randomBytes(16).toString('hex'), token_type: 'Bearer', id_token: idToken })
  }

  return {
    ...{ issuer, client, asked },
    signInAs(next) {
      person = next
    },
    misbehave(how) {
      wrong = how
    },
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function discovery(issuer: string) {
  return {
    issuer,
    authorization_endpoint: `${issuer}/authorize`,
    token_endpoint: `${issuer}/token`,
    jwks_uri: `${issuer}/keys`,
    id_token_signing_alg_values_supported: ['RS256'],
    response_types_supported: ['code'],
    subject_types_supported: ['public'],
  }
}

function send(res: ServerResponse, status: number, body: object) {
  res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}
