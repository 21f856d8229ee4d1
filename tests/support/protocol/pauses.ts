import type { Sql } from '../../../src/db/client.ts'
import type { Connection } from './connection.ts'
import { knows, type Mutant, rewrite } from './mutant.ts'

const PAUSE = 'and protocol_pause()'

/**
 * Stops within a statement: when it has looked at the tables, and before it locks the rows that it found. What it knows is
 * old by then, if others were let on meanwhile; only what it reads with the lock counts.
 */
const PLACES: Mutant[] = [
  behind('with head as materialized', 'and c.id = h.conversation_id'),
  behind('with recursive waiting', 'and q.organization_id = c.organization_id'),
  behind('with given as materialized', 'and r.reply_batch = g.batch - 1'),
  behind('with c as materialized', "and status = 'active'"),
  behind("state = 'ready', replica = null", 'and attempt < §'),
  behind('with old as materialized', 'and r.end_seq <= c.end_seq'),
  { in: 'end_seq as "endSeq" from conversations\n', replace: [['for no key update', `${PAUSE} for no key update`]] },
]

function behind(where: string, piece: string): Mutant {
  return { in: where, replace: [[piece, `${piece} ${PAUSE}`]] }
}

const paused = new WeakMap<TemplateStringsArray, TemplateStringsArray>()

/** @throws Error when a place is not there any more. */
export function withPause(strings: TemplateStringsArray): TemplateStringsArray {
  const place = PLACES.find((one) => knows(one, strings))
  const made = paused.get(strings) ?? (place ? rewrite(strings, place) : strings)
  if (typeof made === 'string') throw new Error(made)
  paused.set(strings, made)
  return made
}

/** What a connection waits for in a pause: the first of the two arguments of its locks. The second is its process id. */
export const PAUSED = 1
/** Behind it: closed while the pause is closed again, so that a connection that goes on cannot go through the next one too. */
const LEAVING = 2

/** Two locks for each connection, of which `keeper`, a client of one connection, holds the first. */
export async function preparePauses(keeper: Sql, connections: Connection[]): Promise<void> {
  await keeper.unsafe(`
    create or replace function protocol_pause() returns boolean language plpgsql volatile as $$
    begin
      perform pg_advisory_lock(${PAUSED}, pg_backend_pid());
      perform pg_advisory_unlock(${PAUSED}, pg_backend_pid());
      perform pg_advisory_lock(${LEAVING}, pg_backend_pid());
      perform pg_advisory_unlock(${LEAVING}, pg_backend_pid());
      return true;
    end $$`)
  await keeper`select pg_advisory_unlock_all()`
  for (const { pid } of connections) await keeper`select pg_advisory_lock(${PAUSED}, ${pid})`
}

/** Lets the statement of a connection go on that stands in a pause. */
export async function endPause(keeper: Sql, { pid }: Connection): Promise<void> {
  await keeper`select pg_advisory_lock(${LEAVING}, ${pid})`
  await keeper`select pg_advisory_unlock(${PAUSED}, ${pid})`
  await keeper`select pg_advisory_lock(${PAUSED}, ${pid})`
  await keeper`select pg_advisory_unlock(${LEAVING}, ${pid})`
}
