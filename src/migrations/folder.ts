import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** Where the SQL files are: beside the bundle in a build, beside this file in the sources. */
export function migrationsFolder(): string {
  const built = join(import.meta.dirname, 'migrations')
  return existsSync(built) ? built : import.meta.dirname
}
