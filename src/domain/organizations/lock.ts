import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'

/**
 * Every change of who belongs to an organization locks its row first: of two owners who step down at the same time, the
 * second one sees what the first one did.
 * @throws AppError 'not_found' when it was deleted meanwhile.
 */
export async function lockOrganization(tx: Sql, organizationId: string): Promise<{ slug: string; name: string }> {
  const [row] = await tx<{ slug: string; name: string }[]>`
    select slug, name from organizations where id = ${organizationId} for no key update`
  if (!row) throw new AppError('not_found', 'No such organization')
  return row
}
