import { PassThrough } from 'node:stream'
import { expect, it } from 'vitest'
import type { Logger } from '../lib/logger.ts'
import { logOutput } from './output.ts'

function record() {
  const lines: Record<string, unknown>[] = []
  const log = { warn: (fields: Record<string, unknown>) => lines.push(fields) } as unknown as Logger
  const stream = new PassThrough()
  logOutput(stream, { log, level: 'warn' })
  return { lines, stream }
}

const ended = (stream: PassThrough) => new Promise((resolve) => stream.once('close', resolve))

it('logs each line, the last one without its end too', async () => {
  const { lines, stream } = record()
  stream.write('one\ntw')
  stream.end('o\n\nthree')
  await ended(stream)
  expect(lines).toEqual([{ output: 'one' }, { output: 'two' }, { output: 'three' }])
})

it('cuts long lines and drops what comes too fast', async () => {
  const { lines, stream } = record()
  for (let i = 0; i < 100; i++) stream.write('x'.repeat(1000))
  stream.write('\n')
  for (let i = 0; i < 1000; i++) stream.write('again\n')
  stream.end()
  await ended(stream)
  expect(lines[0]!.output).toHaveLength(8192)
  expect(lines.length).toBeLessThan(100)
})
