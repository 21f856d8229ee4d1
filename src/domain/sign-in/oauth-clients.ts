import { z } from 'zod'
import type { Sql } from '../../db/client.ts'

/** The command-line client: known from the first start on, so it registers nowhere. The migration makes its row. */
export const CLI_CLIENT_ID = 'lobu-cli'

const GRANT_TYPES = ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code']
const HTTPS = /^https:\/\//i
const Text = z.string().min(1).max(100)
const Uri = z.url().max(500)

/** What a client says of itself (RFC 7591). What is not here is not kept: keys, secrets, pictures to load, pages to link. */
export const ClientMetadata = z.object({
  client_name: Text.optional(),
  redirect_uris: z.array(z.string().min(1).max(500)).max(10).optional(),
  grant_types: z.array(Text).max(10).optional(),
  response_types: z.array(Text).max(5).optional(),
  application_type: z.enum(['web', 'native']).optional(),
  client_uri: Uri.optional(),
  software_id: Text.optional(),
  software_version: Text.optional(),
})
export type ClientMetadata = z.infer<typeof ClientMetadata>

/**
 * What better-auth is asked to register. All clients are public: a secret would be one that the whole world can ask for.
 * MCP clients name loopback addresses without saying that they are native, which better-auth would take for a web client.
 * Grants that this gateway does not give are left out, as RFC 7591 allows, and the answer says so.
 */
export function toRegistration(metadata: ClientMetadata): object {
  const { grant_types, response_types: _, redirect_uris = [], ...rest } = metadata
  const grants = grant_types?.filter((grant) => GRANT_TYPES.includes(grant)) ?? []
  const isNative = redirect_uris.some((uri) => !HTTPS.test(uri))
  return {
    ...rest,
    client_name: metadata.client_name ?? 'Unnamed program',
    redirect_uris,
    grant_types: grants.length > 0 ? grants : ['authorization_code', 'refresh_token'],
    token_endpoint_auth_method: 'none',
    application_type: metadata.application_type ?? (isNative ? 'native' : 'web'),
  }
}

export interface Client {
  clientId: string
  name: string
  redirectUris: string[]
}

/** A client that may be used; null for one that is unknown or disabled. */
export async function findClient(sql: Sql, clientId: string): Promise<Client | null> {
  const [client] = await sql<Client[]>`
    select client_id as "clientId", coalesce(name, client_id) as name, redirect_uris as "redirectUris" from oauth_clients
    where client_id = ${clientId} and disabled is not true`
  return client ?? null
}

export async function countClients(sql: Sql): Promise<number> {
  const [row] = await sql<{ count: number }[]>`select count(*)::int as count from oauth_clients`
  return row!.count
}
