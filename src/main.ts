#!/usr/bin/env node
/**
 * The one executable: reads the environment, runs a subcommand, exits with its code. What the subcommands need is loaded
 * after the version check, because an old Node fails on it in ways that explain nothing.
 */
import { existsSync } from 'node:fs'

const NODE_MAJOR_MIN = 22

/**
 * Starts what it is given, passes signals on, and takes away the remains of every orphan until that has ended; then it ends
 * with the same code. A wait that a signal interrupts begins anew; one that came before there was anybody to pass it on to
 * is passed on then.
 */
const REAPER = `
  child= early=
  trap 'early=TERM; kill -TERM "$child" 2>/dev/null' TERM
  trap 'early=INT; kill -INT "$child" 2>/dev/null' INT
  "$@" & child=$!
  [ -z "$early" ] || kill -s "$early" "$child"
  while :; do wait "$child"; code=$?; kill -0 "$child" 2>/dev/null || exit "$code"; done
`

/**
 * The first process of a container without an init inherits every orphan, and Node never waits for strangers: they would
 * stay as zombies until no process can be started any more. A shell does, so it takes this one's place and starts it again.
 */
function giveWayToReaper() {
  if (process.pid !== 1 || typeof process.execve !== 'function' || !existsSync('/bin/sh')) return
  const again = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  process.execve(
    '/bin/sh',
    ['sh', '-c', REAPER, 'lobu', ...again],
    process.env as NodeJS.ProcessEnv & { [name: string]: string },
  )
}

const USAGE = `usage: lobu [command]

  serve       run the gateway (default)
  migrate     bring the database schema up to date and exit
  bootstrap   make the first organization where it is missing, and a new API key, printed on standard output
  doctor [--json]           look for what is wrong with this installation, and say how to fix it
  smoke <url>               take one turn with the demo model at that gateway, with a key that ends with it
  secrets rotate            seal all stored secrets with the current key, while gateways serve
  secrets discard <key id>  remove what a lost key has sealed
  version     print the version
`

async function main(): Promise<number> {
  giveWayToReaper()
  // Node opens a debugger at this signal, by which any process of the same user could do as the gateway does.
  process.on('SIGUSR1', () => {})
  const [asked = 'serve', ...rest] = process.argv.slice(2)
  const command = ['--version', '-v'].includes(asked) ? 'version' : asked
  if (['help', '--help', '-h'].includes(command)) {
    process.stdout.write(USAGE)
    return 0
  }
  if (Number(process.versions.node.split('.')[0]) < NODE_MAJOR_MIN) {
    console.error(
      `Lobu needs Node ${NODE_MAJOR_MIN} or newer; this is ${process.versions.node}. "npm start" brings its own.`,
    )
    return 1
  }
  const { inspectConfig, parseConfig } = await import('./config.ts')
  const { commands, DATABASE_ONLY, tolerantCommands } = await import('./commands/index.ts')
  const where = { isTerminal: process.stdout.isTTY === true }
  const line = [command, ...rest].join(' ')
  if (Object.hasOwn(tolerantCommands, line)) return tolerantCommands[line]!(inspectConfig(process.env, where))
  const name = [`${command} ${rest[0]}`, command].find((one) => Object.hasOwn(commands, one))
  const run = name === undefined ? undefined : commands[name]
  const words = name === command ? rest : rest.slice(1)
  if (!run || words.length !== Math.max(0, run.length - 1)) {
    process.stderr.write(USAGE)
    return 2
  }
  const needsSecrets = !DATABASE_ONLY.includes(name!)
  return run(parseConfig(process.env, { ...where, needsSecrets }), ...words)
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    // Configuration and connection errors are sentences for a person; their stack would only hide them.
    console.error(error instanceof Error ? error.message : error)
    process.exit(1)
  },
)
