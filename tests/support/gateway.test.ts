import { spawn } from 'node:child_process'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { type Program, superviseProgram } from './gateway.ts'

/** Runs until it is ended; with `onTerm` it obeys SIGTERM with that code. */
const lasting = (onTerm?: number) =>
  `${onTerm === undefined ? '' : `process.on('SIGTERM', () => process.exit(${onTerm}));`}
  setInterval(() => {}, 1000); console.log('{"msg":"runs"}')`

async function start(script: string): Promise<Program> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-e2e-'))
  const child = spawn(process.execPath, ['-e', script], {
    cwd: dir,
    env: { PATH: process.env.PATH ?? '', TMPDIR: dir },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const program = superviseProgram(child, { dir, name: 'script' })
  onTestFinished(program.destroy)
  return program
}

test.each<[string, boolean, string, (program: Program) => void]>([
  ['aborted, as by a heap that is full,', true, `process.abort()`, () => {}],
  ['ended unasked, although with 0,', true, ``, () => {}],
  ['ended with a fault', true, `process.exit(3)`, () => {}],
  ['ended with a fault when it was told to stop', true, lasting(1), (program) => program.signal('SIGTERM')],
  ['was killed by a stranger', true, lasting(), ({ pid }) => process.kill(pid, 'SIGKILL')],
  [
    'was killed otherwise than here',
    true,
    lasting(),
    ({ pid, signal }) => {
      signal('SIGCONT')
      process.kill(pid, 'SIGSEGV')
    },
  ],
  ['was killed here', false, lasting(), (program) => program.signal('SIGKILL')],
  ['stopped when it was told to', false, lasting(0), (program) => program.signal('SIGTERM')],
])('a program that %s ended by itself: %s', async (_, byItself, script, end) => {
  const program = await start(script)
  if (script.includes('runs')) {
    await program.logged('runs')
    expect(program.endedByItself()).toBe(false)
  }
  end(program)
  await program.exited
  expect(program.endedByItself()).toBe(byItself)
})

test('a program that is destroyed did not end by itself', async () => {
  const program = await start(lasting())
  await program.logged('runs')
  await program.destroy()
  expect(await program.exited).toEqual({ code: null, signal: 'SIGKILL' })
  expect(program.endedByItself()).toBe(false)
})
