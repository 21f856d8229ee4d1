import { test as base, inject, onTestFailed } from 'vitest'
import { createLogger } from '../../src/lib/logger.ts'
import { SECRETS } from './cluster.ts'
import { createTestDatabase } from './database.ts'
import { type Exit, type Gateway, type Program, startGateway, startProgram } from './gateway.ts'

const log = createLogger({ level: 'silent', pretty: false })

/** Starts processes and databases for one test; what it started is gone when the test is over. */
export interface Programs {
  /** A gateway with these settings and no others but for its address. Resolves when it listens. */
  serve(env: Record<string, string>): Promise<Gateway>
  start(command: string[], env: Record<string, string>): Promise<Program>
  /** Runs a command to its end. */
  run(command: string[], env: Record<string, string>): Promise<Exit & { stdout: string; stderr: string }>
  /** URL of a database of its own: with the whole schema, or with nothing in it. */
  database(options?: { empty: boolean }): Promise<string>
}

/** The least that production starts with. */
export const productionEnv = (url: string) => ({
  NODE_ENV: 'production',
  DATABASE_URL: url,
  SHUTDOWN_WAIT_SECONDS: '0',
  ...SECRETS,
})

/** `programs`: see `Programs`. When the test fails, the ends of their logs are printed. */
export const test = base.extend<{ programs: Programs }>({
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads the parameter list
  programs: async ({}, use) => {
    const started: Program[] = []
    const undo: (() => Promise<void>)[] = []
    onTestFailed(() => {
      for (const program of started) process.stderr.write(program.report())
    })
    const keep = <T extends Program>(program: T) => {
      started.push(program)
      return program
    }
    const start = async (command: string[], env: Record<string, string>) => keep(await startProgram(command, env))
    await use({
      start,
      serve: async (env) => keep(await startGateway(env)),
      async run(command, env) {
        const program = await start(command, env)
        const exit = await program.exited
        return { ...exit, stdout: program.stdout(), stderr: program.stderr() }
      },
      async database({ empty } = { empty: false }) {
        const database = await createTestDatabase(inject('testServer'), { log, empty })
        undo.push(database.drop)
        if (database.url === undefined) throw new Error('other processes need a Postgres server')
        return database.url
      },
    })
    await Promise.all(started.map((program) => program.destroy()))
    for (const step of undo) await step()
  },
})
