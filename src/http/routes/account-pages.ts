import { createRoute, z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import type { Origin } from '../../domain/accounts/actor.ts'
import { findCookie, type PersonLookup } from '../../domain/accounts/browser-session.ts'
import { ROLE_NAMES } from '../../domain/accounts/permissions.ts'
import { PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN } from '../../domain/sign-in/better-auth.ts'
import { INVITATION_COOKIE } from '../../domain/sign-in/hooks.ts'
import type { OpenInvitation } from '../../domain/sign-in/invitation-permit.ts'
import { AppError } from '../../lib/errors.ts'
import type { Env } from '../env.ts'
import { errors } from '../errors.ts'
import { originOf } from '../middleware/authenticate.ts'
import { OPEN } from '../openapi.ts'
import { createAssets, PAGE_FOLDER, PAGE_POLICY } from '../page/assets.ts'
import { createRouter, type Router } from '../router.ts'

const PAGES = ['sign-in', 'setup', 'invite', 'account', 'forgot', 'reset']
const FILES = ['account.css', 'account-form.js', ...PAGES.map((name) => `${name}.js`)]
/** Long enough to find one's mail; the invitation itself may last longer, and its link works again. */
const INVITATION_SECONDS = 3600

const Token = z.object({ token: z.string().min(20).max(200) })

const Options = z
  .object({
    providers: z.array(z.object({ id: z.string(), name: z.string() })),
    mail: z.boolean(),
    signUp: z.enum(['invited', 'open']),
  })
  .openapi('SignInOptions')

const Invitation = z
  .object({
    organizationName: z.string(),
    organizationSlug: z.string(),
    role: z.enum(ROLE_NAMES),
    email: z.string().nullable(),
    /** Whether the browser that asks is signed in. */
    signedIn: z.boolean(),
  })
  .openapi('OpenInvitation')

const Setup = Token.extend({
  name: z.string().trim().min(1).max(100),
  email: z.email().max(254),
  password: z.string().min(PASSWORD_CHARS_MIN).max(PASSWORD_CHARS_MAX),
})

const json = <T extends z.ZodType>(schema: T) => ({ content: { 'application/json': { schema } } })
const shared = { tags: ['Accounts'], security: OPEN }

const options = createRoute({
  ...shared,
  method: 'get',
  path: '/sign-in/options',
  summary: 'How people can sign in',
  request: { query: z.object({ org: z.string().max(100).optional() }) },
  responses: { 200: { description: 'What the sign-in page offers', ...json(Options) } },
})

const setup = createRoute({
  ...shared,
  method: 'post',
  path: '/setup',
  summary: 'Become the owner of a fresh install, with its setup link',
  request: { body: { required: true, ...json(Setup) } },
  responses: {
    200: { description: 'Signed in as the owner', ...json(z.object({ success: z.literal(true) })) },
    ...errors('invalid_request', 'not_found', 'conflict'),
  },
})

const openInvitation = createRoute({
  ...shared,
  method: 'post',
  path: '/invite',
  summary: 'Hold an invitation while making an account',
  request: { body: { required: true, ...json(Token) } },
  responses: { 200: { description: 'The invitation', ...json(Invitation) }, ...errors('invalid_request', 'not_found') },
})

const heldInvitation = createRoute({
  ...shared,
  method: 'get',
  path: '/invite/held',
  summary: 'The invitation that this browser holds',
  responses: { 200: { description: 'The invitation', ...json(Invitation) }, ...errors('not_found') },
})

const acceptInvitation = createRoute({
  ...shared,
  method: 'post',
  path: '/invite/accept',
  summary: 'Become a member by the invitation that this browser holds',
  responses: {
    200: { description: 'A member now', ...json(z.object({ organizationSlug: z.string() })) },
    ...errors('unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

export interface AccountPagesDeps {
  /** Who is signed in with the browser that sends this cookie. */
  identify: PersonLookup['identify']
  secureCookies: boolean
  options(organizationSlug: string | undefined): Promise<z.infer<typeof Options>>
  /** Resolves with the cookies of the new owner's session. */
  setUp(args: z.infer<typeof Setup> & { origin: Origin }): Promise<string[]>
  findInvitation(token: string): Promise<OpenInvitation | null>
  accept(args: {
    token: string
    userId: string
    credentialId: string
    origin: Origin
  }): Promise<{ organizationSlug: string }>
}

/**
 * The pages on which people sign in and look after their account, and the few routes that they need besides better-auth's.
 * Tokens of links come behind the `#` of an address, which browsers send to nobody.
 */
export function accountPageRoutes(deps: AccountPagesDeps): Router {
  const router = createRouter()
  addPages(router)

  async function show(c: Context<Env>, token: string) {
    const invitation = await deps.findInvitation(token)
    if (!invitation) throw new AppError('not_found', 'This invitation is unknown, used, withdrawn or expired')
    const signedIn = (await deps.identify(c.req.header('cookie'))) !== null
    return { ...invitation, signedIn }
  }

  const held = (c: Context<Env>) => findCookie(c.req.header('cookie') ?? '', INVITATION_COOKIE) ?? ''
  const hold = (c: Context<Env>, token: string, seconds: number) =>
    c.header('set-cookie', writeCookie({ token, seconds, secure: deps.secureCookies }), { append: true })

  return router
    .openapi(options, async (c) => c.json(await deps.options(c.req.valid('query').org), 200))
    .openapi(setup, async (c) => {
      const cookies = await deps.setUp({ ...c.req.valid('json'), origin: originOf(c) })
      for (const cookie of cookies) c.header('set-cookie', cookie, { append: true })
      return c.json({ success: true as const }, 200)
    })
    .openapi(openInvitation, async (c) => {
      const { token } = c.req.valid('json')
      const invitation = await show(c, token)
      hold(c, token, INVITATION_SECONDS)
      return c.json(invitation, 200)
    })
    .openapi(heldInvitation, async (c) => c.json(await show(c, held(c)), 200))
    .openapi(acceptInvitation, async (c) => {
      const person = await deps.identify(c.req.header('cookie'))
      if (!person) throw new AppError('unauthenticated', 'Sign in first')
      const joined = await deps.accept({
        ...{ token: held(c), userId: person.userId, credentialId: person.sessionId, origin: originOf(c) },
      })
      hold(c, '', 0)
      return c.json({ organizationSlug: joined.organizationSlug }, 200)
    })
}

function addPages(router: Router): void {
  const assets = createAssets({ folder: PAGE_FOLDER, names: [...FILES, ...PAGES.map((name) => `${name}.html`)] })
  // Not kept by shared caches or the back button's: a page may show what its owner has signed out of.
  const headers = { 'content-security-policy': PAGE_POLICY, 'cache-control': 'no-store' }
  for (const name of PAGES) router.get(`/${name}`, (c) => assets.send(c, `${name}.html`, headers))
  for (const name of FILES) router.get(`/${name}`, (c) => assets.send(c, name))
}

/** Sent along when a provider returns the person to us, which is another site's navigation: hence Lax. */
function writeCookie({ token, seconds, secure }: { token: string; seconds: number; secure: boolean }): string {
  const attributes = `Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`
  return `${INVITATION_COOKIE}=${encodeURIComponent(token)}; ${attributes}`
}
