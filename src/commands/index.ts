import type { Config } from '../config.ts'
import { VERSION } from '../version.ts'
import { runBootstrap } from './bootstrap.ts'
import { runMigrate } from './migrate.ts'
import { serve } from './serve.ts'

/** The subcommands by name; each resolves with the exit code. */
export const commands: Record<string, (config: Config) => Promise<number>> = {
  serve,
  migrate: runMigrate,
  bootstrap: runBootstrap,
  version: async () => {
    process.stdout.write(`${VERSION}\n`)
    return 0
  },
}
