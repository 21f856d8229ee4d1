import type { Sql } from '../../db/client.ts'

/**
 * Removes entries that are older than their organization keeps them, `rowsMax` at most, in the caller's transaction. Returns
 * how many. The first statement, which reads one end of `audit_log_at_idx`, is all there is to do when nothing is that old;
 * then each organization costs one look at the oldest end of its log. "Is there an older one" would be planned as a scan of the table.
 */
export async function pruneAudit(
  tx: Sql,
  { keepDays, rowsMax }: { keepDays: number; rowsMax: number },
): Promise<number> {
  const [oldest] = await tx<{ due: boolean | null }[]>`
    select (select at from audit_log order by at limit 1) < now() - interval '1 day' * least(${keepDays}::int, (
      select min(audit_keep_days) from organization_limits)) as due`
  if (!oldest!.due) return 0
  await tx`select set_config('lobu.audit_retention', 'on', true)`
  const rows = await tx`
    with bounds as (
      select o.id, now() - coalesce(l.audit_keep_days, ${keepDays}::int) * interval '1 day' as before
      from organizations o left join organization_limits l on l.organization_id = o.id
    ), old as materialized (
      select a.organization_id, a.id from bounds b cross join lateral (
        select organization_id, id from audit_log
        where organization_id = b.id and at < b.before
          and id < (rpad(lpad(to_hex((extract(epoch from b.before) * 1000)::bigint + 3600000), 12, '0'), 32, '0'))::uuid
        order by organization_id, id limit ${rowsMax} for update skip locked
      ) a limit ${rowsMax}
    )
    delete from audit_log l using old o where l.organization_id = o.organization_id and l.id = o.id returning 1`
  return rows.length
}
