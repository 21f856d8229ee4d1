import { codeOf, explainConnectError } from '../db/errors.ts'

/** Postgres gave up waiting for a lock, or broke a circle of waiting at this end: nothing is done, and it may be tried again. */
export function isLockTimeout(error: unknown): boolean {
  return ['55P03', '40P01'].includes(codeOf(error))
}

/** Says which statement failed and, where we know it, what to do about it; keeps the driver's error as the cause. */
export function explainStatement(name: string, number: number, error: unknown): Error {
  const message = error instanceof Error ? error.message : String(error)
  const advice = explainConnectError(error) ?? adviceFor(codeOf(error), message)
  const what = `Migration ${name}, statement ${number}: ${message}.${advice === undefined ? '' : ` ${advice}`}`
  return Object.assign(new Error(what, { cause: error }), { code: codeOf(error) })
}

function adviceFor(code: string, message: string): string | undefined {
  if (/extension "?vector"? is not available|extension control file.*vector/.test(message)) {
    return 'pgvector is not installed on the database server: install it (Debian: postgresql-NN-pgvector; Docker: the image pgvector/pgvector:pgNN) and migrate again.'
  }
  if (code === '42501' && message.includes('extension')) {
    return 'Run "create extension vector" once in this database as a superuser and migrate again.'
  }
  if (code === '42501') {
    return 'Make the user of DATABASE_URL the owner of the database (alter database NAME owner to USER) and migrate again.'
  }
  if (code === '55P03') {
    return 'A long query or transaction holds the table: find it in pg_stat_activity, or migrate at a quieter time. The next run starts this file anew.'
  }
  return undefined
}
