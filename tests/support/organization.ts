import { createHash, randomBytes } from 'node:crypto'
import type { Cluster } from './cluster.ts'

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

/** An organization with a default agent and a key, as SQL makes it, past everything that could go wrong in the product. */
export async function makeOrganization({ database: { sql } }: Cluster): Promise<{ slug: string; key: string }> {
  const slug = `org-${randomBytes(4).toString('hex')}`
  const key = `lobu_${randomBytes(24).toString('base64url')}`
  await sql`insert into organizations (id, slug, name) values (${slug}, ${slug}, ${slug})`
  await sql`
    insert into agents (organization_id, id, name, is_default) values (${slug}, 'assistant', 'Theirs', true)`
  await sql`
    insert into api_keys (organization_id, id, name, token_hash, token_prefix)
    values (${slug}, ${`key-${slug}`}, 'test', ${sha256(key)}, ${key.slice(0, 12)})`
  return { slug, key }
}
