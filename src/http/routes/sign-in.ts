import type { Context } from 'hono'
import { SIGN_IN_PATH } from '../../domain/sign-in/better-auth.ts'
import { CLIENT_ADDRESS_HEADER, REQUEST_ID_HEADER } from '../../domain/sign-in/hooks.ts'
import type { SignIn } from '../../domain/sign-in/sign-in.ts'
import { AppError } from '../../lib/errors.ts'
import { parseObject } from '../../lib/text.ts'
import { readBody } from '../body.ts'
import type { Env } from '../env.ts'
import { answerError } from '../errors.ts'
import { createRouter, type Router } from '../router.ts'

/** Passkeys and OAuth registrations are a few kilobytes. */
const BODY_BYTES_MAX = 65_536
/** Ours to set, or of no meaning to better-auth: it takes its address from the settings alone. */
const DROPPED =
  /^(x-forwarded-.*|forwarded|x-real-ip|x-lobu-.*|host|connection|content-length|transfer-encoding|expect)$/

export interface SignInRoutesDeps {
  signIn: Pick<SignIn, 'handle'>
  publicUrl: string
}

/** better-auth's own routes below `/api/auth`; `auth` is no organization. Its errors leave here in our form. */
export function signInRoutes(deps: SignInRoutesDeps): Router {
  const router = createRouter()
  router.all(`${SIGN_IN_PATH}/*`, async (c) => {
    const response = await deps.signIn.handle(await toRequest(c, deps.publicUrl))
    return response.status < 400 ? response : toError(c, response)
  })
  return router
}

/** The request as it would have come under the public URL, from whom it came. */
async function toRequest(c: Context<Env>, publicUrl: string): Promise<Request> {
  const headers = new Headers()
  for (const [name, value] of Object.entries(c.req.header())) if (!DROPPED.test(name)) headers.set(name, value)
  headers.set(REQUEST_ID_HEADER, c.get('requestId'))
  const address = c.get('clientAddress')
  if (address !== undefined) headers.set(CLIENT_ADDRESS_HEADER, address)
  const { search } = new URL(c.req.url)
  const { method } = c.req
  const body = method === 'GET' || method === 'HEAD' ? null : await readBody(c, { bytesMax: BODY_BYTES_MAX })
  return new Request(`${publicUrl}${c.req.path}${search}`, { method, headers, body: body && new Uint8Array(body) })
}

/**
 * better-auth says `{message, code: 'UPPER_CASE'}`; OAuth's own errors, which have a form of their own, stay as they are.
 * https://www.rfc-editor.org/rfc/rfc6749#section-5.2
 */
async function toError(c: Context<Env>, response: Response): Promise<Response> {
  const text = await response.text()
  const body = parseObject(text)
  if (body && 'error' in body) return new Response(text, response)
  if (response.status === 404 && body === undefined) return answerError(c, new AppError('not_found', 'No such path'))
  const headers = new Headers(response.headers)
  headers.set('content-type', 'application/json')
  const wait = headers.get('x-retry-after')
  if (wait !== null) headers.set('retry-after', wait)
  const limited = response.status === 429
  const code = limited
    ? 'rate_limited'
    : String(body?.code ?? (response.status >= 500 ? 'internal' : 'invalid_request'))
  const error = response.status >= 500 && response.status !== 503 ? 'Something went wrong on our side' : body?.message
  const json = { ...extras(body), error: error ?? 'The request was refused', code: code.toLowerCase() }
  return new Response(JSON.stringify(json), { status: response.status, headers })
}

function extras(body: Record<string, unknown> | undefined): object {
  const { message: _message, code: _code, ...rest } = body ?? {}
  return rest
}
