import { Writable } from 'node:stream'
import { expect, test } from 'vitest'
import { createLogger } from './logger.ts'
import { createRedactions } from './redactions.ts'

const SECRET_KEYS = ['authorization', 'cookie', 'set-cookie', 'x-api-key', 'token', 'apiKey', 'password', 'secret']

test.each([false, true])('values under the names of secrets are never written (pretty: %s)', (pretty) => {
  const { log, written } = createRecorder(pretty)
  for (const [i, key] of SECRET_KEYS.entries()) {
    const canary = `canary-${i}-`
    log.info({ [key]: `${canary}0` }, 'at the top')
    log.info({ request: { [key]: `${canary}1` } }, 'inside')
    log.info({ request: { headers: { [key]: `${canary}2` } } }, 'in headers')
    log.child({ [key]: `${canary}3` }).warn('of a child')
    log.error({ list: [{ [key]: `${canary}4` }] }, 'in a list')
  }
  expect(written()).not.toContain('canary-')
  expect(written()).toContain('redacted')
})

test.each([false, true])('known secret values are never written, whatever they stand in (pretty: %s)', (pretty) => {
  const redactions = createRedactions(['canary-of the "environment"'])
  const { log, written } = createRecorder(pretty, 'debug', redactions)
  redactions.add('canary-added-later')
  log.info({ deep: { header: 'Bearer canary-added-later' } }, 'said canary-added-later')
  log.child({ url: 'http://host/?key=canary-added-later' }).warn('of a child')
  log.error(new Error('the key canary-of the "environment" was refused'))
  expect(written()).not.toContain('canary-')
  expect(written().match(/\[redacted\]/g)!.length).toBeGreaterThanOrEqual(4)
})

test('the caller keeps its object as it was', () => {
  const { log } = createRecorder(false)
  const request = { headers: { authorization: 'Bearer mine' }, token: 'mine' }
  log.info({ request }, 'call')
  expect(request).toEqual({ headers: { authorization: 'Bearer mine' }, token: 'mine' })
})

test('a line is JSON with its level as a word, the service and an ISO time', () => {
  const { log, written } = createRecorder(false)
  log.warn({ runId: 'r' }, 'hello')
  const line = JSON.parse(written())
  expect(line).toMatchObject({ level: 'warn', service: 'lobu', runId: 'r', msg: 'hello' })
  expect(new Date(line.time).toISOString()).toBe(line.time)
})

test('what is below the level is not written', () => {
  const { log, written } = createRecorder(false, 'warn')
  log.info('quiet')
  expect(written()).toBe('')
})

test('readable lines are for people', () => {
  const { log, written } = createRecorder(true)
  log.info({ port: 8787 }, 'gateway ready')
  expect(written()).toContain('gateway ready')
  expect(written()).not.toContain('{"')
})

function createRecorder(pretty: boolean, level = 'debug', redactions = createRedactions()) {
  let text = ''
  const stream = new Writable({
    write(chunk, _encoding, done) {
      text += chunk
      done()
    },
  })
  return { log: createLogger({ level, pretty, redactions, stream: stream as NodeJS.WriteStream }), written: () => text }
}
