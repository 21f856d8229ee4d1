import type { Sql } from '../../db/client.ts'
import { lazyCommit } from '../../db/lazy-commit.ts'
import { removeRows } from '../../db/remove-rows.ts'

export interface BucketKey {
  organizationId: string
  /** `organization`, or `key:` and the key's id. */
  subject: string
}

export interface Taken {
  /** How many of the tokens asked for were there, in whole ones. */
  granted: number
  /** What is left, with the part of a token that has grown so far. */
  left: number
}

/**
 * Takes up to `want` tokens from a bucket that holds `perMinute` at most and gets that many in a minute, by the
 * database's clock. The row's lock makes replicas take one after the other, so none of them sees what another has taken.
 *
 * The commit does not wait for the disk: what a crash of Postgres forgets are some requests of its last half second.
 */
export async function takeTokens(
  sql: Sql,
  key: BucketKey,
  { want, perMinute }: { want: number; perMinute: number },
): Promise<Taken> {
  for (;;) {
    const [taken] = await sql<Taken[]>`
      with held as materialized (
        select organization_id, subject, tokens, refilled_at, clock_timestamp() as at
        from rate_buckets where organization_id = ${key.organizationId} and subject = ${key.subject} for update
      ), filled as materialized (
        select organization_id, subject, greatest(at, refilled_at) as at, least(${perMinute}::float8, tokens
          + greatest(0, extract(epoch from at - refilled_at)::float8) * ${perMinute}::float8 / 60) as tokens
        from held
      ), bucket as (
        update rate_buckets b
        set tokens = f.tokens - least(${want}::int, floor(f.tokens)), refilled_at = f.at
        from filled f, ${lazyCommit(sql)} where b.organization_id = f.organization_id and b.subject = f.subject
      )
      select least(${want}::int, floor(tokens))::int as granted, tokens - least(${want}::int, floor(tokens)) as left
      from filled`
    if (taken) return taken
    // A bucket begins full.
    await sql`
      insert into rate_buckets (organization_id, subject, tokens, refilled_at)
      values (${key.organizationId}, ${key.subject}, ${perMinute}, clock_timestamp()) on conflict do nothing`
  }
}

/** Removes buckets that nobody has taken from for a day: they are full again, and so need not be there. Returns how many. */
export function removeIdleBuckets(sql: Sql, { rowsMax }: { rowsMax: number }): Promise<number> {
  return removeRows(sql, {
    ...{ table: 'rate_buckets', key: ['organization_id', 'subject'], rowsMax },
    due: sql`refilled_at < now() - interval '1 day'`,
  })
}
