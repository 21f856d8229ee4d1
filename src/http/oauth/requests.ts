import type { Context } from 'hono'
import type { Caller } from '../../domain/sign-in/oauth-server.ts'
import { AppError } from '../../lib/errors.ts'
import { readBody } from '../body.ts'
import type { Env } from '../env.ts'
import { originOf } from '../middleware/authenticate.ts'

/** Of a form; the longest thing in it is a signed query with a redirect URI of 500 characters. */
const FORM_BYTES_MAX = 16_384

/**
 * Reads a form body within bounds.
 * @throws AppError 'unsupported_media_type', 'payload_too_large', 'invalid_request'.
 */
export async function readForm(c: Context<Env>): Promise<URLSearchParams> {
  const type = (c.req.header('content-type') ?? '').split(';')[0]!.trim().toLowerCase()
  if (type !== 'application/x-www-form-urlencoded') {
    throw new AppError('unsupported_media_type', 'Send the body as application/x-www-form-urlencoded')
  }
  return new URLSearchParams((await readBody(c, { bytesMax: FORM_BYTES_MAX })).toString('utf8'))
}

/** A program: what a browser adds by itself does not count. */
export function programOf(c: Context<Env>): Caller {
  const { ip, userAgent, requestId } = originOf(c)
  return { ip, userAgent: userAgent ?? undefined, requestId }
}

/** A person's browser. */
export function browserOf(c: Context<Env>): Caller {
  return { ...programOf(c), cookie: c.req.header('cookie') }
}
