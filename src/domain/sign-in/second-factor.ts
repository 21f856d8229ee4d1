import type { BetterAuthPlugin } from '@better-auth/core'
import { APIError, createAuthMiddleware } from 'better-auth/api'
import { twoFactor } from 'better-auth/plugins'

/** Where a mailed link is used up. */
const LINK_PATH = '/magic-link/verify'

/**
 * The second factor of people who have set one up. better-auth asks for it after a password alone; a mailed link proves no
 * more than that somebody reads the mail, so it asks there as well. (A passkey is two factors by itself, and a provider has
 * its own.)
 */
export function secondFactor(publicUrl: string) {
  const plugin = twoFactor({ issuer: 'Lobu' })
  const after = plugin.hooks.after.map((hook) => ({
    ...hook,
    matcher: (ctx: Parameters<typeof hook.matcher>[0]) => hook.matcher(ctx) || isLink(ctx),
  }))
  return [{ ...plugin, hooks: { ...plugin.hooks, after } }, leadToCode(publicUrl)]
}

const isLink = ({ path }: { path?: string | undefined }) => path === LINK_PATH

/** A browser that has followed the link is on no page that could ask: it is led to the one that does. */
function leadToCode(publicUrl: string): BetterAuthPlugin {
  return {
    id: 'lobu-second-factor',
    hooks: {
      after: [
        {
          matcher: isLink,
          handler: createAuthMiddleware(async (ctx) => {
            const returned = ctx.context.returned as { twoFactorRedirect?: boolean } | undefined
            if (returned instanceof APIError || !returned?.twoFactorRedirect || !ctx.query?.callbackURL) return
            // A path of ours, as better-auth has seen to before it took the link.
            const { pathname, search } = new URL(String(ctx.query.callbackURL), publicUrl)
            throw ctx.redirect(
              `${publicUrl}/sign-in?${new URLSearchParams({ code: 'needed', next: pathname + search })}`,
            )
          }),
        },
      ],
    },
  }
}
