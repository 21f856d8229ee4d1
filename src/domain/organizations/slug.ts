/** First words of paths below `/api` and `/`, now or some day: none of them can be an organization. */
const RESERVED = new Set(
  `about accept account accounts admin agents api app apps assets auth billing connect connections consent console
  dashboard device docs documentation embeddings files health help home internal invitations invite
  invites join keys lobu login logout mail mcp me members metrics new null oauth organization organizations orgs pages
  permissions platforms profile public ready security settings setup sign-in sign-out sign-up signin signout signup slack
  static status support system tokens undefined usage user users v1 v2 v3 webhooks well-known workers www`.split(/\s+/),
)

/** 3 to 40 lower-case letters, digits and single hyphens, a letter first: it fits into any URL and host name. */
export const SLUG = /^(?=.{3,40}$)[a-z][a-z0-9]*(-[a-z0-9]+)*$/

export function isReservedSlug(slug: string): boolean {
  return RESERVED.has(slug)
}

/** A slug made of a name, for whoever does not choose one; null when nothing of the name can be in a slug. */
export function slugOf(name: string): string | null {
  const slug = name
    .normalize('NFKD')
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^[-0-9]+|-+$/g, '')
    .slice(0, 30)
    .replace(/-+$/, '')
  return SLUG.test(slug) ? slug : null
}
