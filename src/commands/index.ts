import type { Config, InspectedConfig } from '../config.ts'
import { VERSION } from '../version.ts'
import { runBootstrap } from './bootstrap.ts'
import { runDoctor } from './doctor.ts'
import { runMigrate } from './migrate.ts'
import { runDiscardSecrets, runRotateSecrets } from './rotate-secrets.ts'
import { serve } from './serve.ts'
import { runSmoke } from './smoke.ts'

/** A subcommand: takes as many words behind its name as it has parameters, and resolves with the exit code. */
type Command = (config: Config, ...words: string[]) => Promise<number>

/** The subcommands by name, which may be two words. */
export const commands: Record<string, Command> = {
  serve,
  migrate: runMigrate,
  bootstrap: runBootstrap,
  smoke: runSmoke,
  'secrets rotate': runRotateSecrets,
  'secrets discard': runDiscardSecrets,
  version: async () => {
    process.stdout.write(`${VERSION}\n`)
    return 0
  },
}

/** Subcommands that go on in spite of faulty settings, since these are what they are about. */
export const diagnoses: Record<string, (inspected: InspectedConfig) => Promise<number>> = {
  doctor: (inspected) => runDoctor(inspected, { json: false }),
  'doctor --json': (inspected) => runDoctor(inspected, { json: true }),
}
/** Subcommands that use the database and no secret, so that a Job in a cluster need not be given any. */
export const DATABASE_ONLY = ['migrate', 'bootstrap', 'smoke', 'version']
