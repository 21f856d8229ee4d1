import type { Context } from 'hono'
import type { Sql } from '../db/client.ts'
import type { Actor } from '../domain/accounts/actor.ts'
import { AppError } from '../lib/errors.ts'
import type { Env } from './env.ts'

/** The caller, behind the authentication middleware. A route that forgot the middleware refuses everybody. */
export function actorOf(c: Context<Env>): Actor {
  const actor = c.get('actor')
  if (!actor) throw new AppError('unauthenticated', 'Send "Authorization: Bearer <API key or session token>"')
  return actor
}

/** The database as the caller's organization sees it: rows of others are not there, whatever a statement says (I9). */
export function databaseOf(c: Context<Env>): Sql {
  const sql = c.get('sql')
  if (!sql) throw new AppError('unauthenticated', 'Send "Authorization: Bearer <API key or session token>"')
  return sql
}
