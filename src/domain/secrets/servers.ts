import { AppError } from '../../lib/errors.ts'
import type { KeyOwner } from './provider-keys.ts'
import {
  checkSecretReferences,
  findSecretReferences,
  type ReferenceDeps,
  type ReferenceUse,
  resolveSecretReferences,
} from './references.ts'

/** One of `mcpServers`, as settings have it. References to secrets belong into its headers. */
export interface ServerSettings {
  url?: string | undefined
  headers?: unknown
}

const WRONG_PLACE = 'References to secrets are replaced in "headers" alone.'
const SERVERS_CHECKED_MAX = 20

/**
 * The headers to call a server with, credentials in place. For the moment of the call, inside the gateway.
 * @throws AppError 'invalid_request' for a reference that cannot be used here, or stands outside of the headers.
 */
export async function resolveServerHeaders(
  deps: ReferenceDeps,
  { server, ...use }: Omit<ReferenceUse, 'url'> & { server: ServerSettings },
): Promise<Record<string, string>> {
  const { headers, ...rest } = server
  if (findSecretReferences(rest).length > 0) throw new AppError('invalid_request', WRONG_PLACE)
  return (await resolveSecretReferences(deps, headers ?? {}, { ...use, url: server.url ?? '' })) as Record<
    string,
    string
  >
}

/** Sentences about the references in a caller's servers that would fail when they are used. */
export async function checkServerReferences(
  deps: ReferenceDeps,
  { owner, mcpServers }: { owner: KeyOwner; mcpServers: Record<string, ServerSettings> },
): Promise<string[]> {
  const warnings: string[] = []
  for (const [name, { headers, ...rest }] of Object.entries(mcpServers).slice(0, SERVERS_CHECKED_MAX)) {
    const use = { owner, url: rest.url ?? '', writtenBy: 'caller' as const }
    const faults = await checkSecretReferences(deps, headers, use)
    if (findSecretReferences(rest).length > 0) faults.push(WRONG_PLACE)
    warnings.push(...faults.map((fault) => `mcpServers.${name}: ${fault}`))
  }
  return warnings
}
