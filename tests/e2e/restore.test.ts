import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Conversation, SECRETS, sendRequest, test } from '../support/cluster.ts'
import { followEvents } from '../support/follower.ts'
import { startGateway } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('its programs make the backup')

test.override('clusterOptions', { replicas: 1, env: {}, postgres: 'own' })

const DRILL = fileURLToPath(new URL('../../scripts/restore-drill.sh', import.meta.url))
const ENVIRONMENT = { PATH: process.env.PATH ?? '' }

interface Ended {
  code: number
  output: string
}

function run(program: string, args: string[], env: Record<string, string> = {}): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(program, args, { env: { ...ENVIRONMENT, ...env }, timeout: 140_000 }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code ?? 1) : 0, output: stdout + stderr }),
    )
  })
}

async function say(conversation: Conversation, messageId: string) {
  const follower = await conversation.follow({ lastEventId: 0 })
  await conversation.send(`/echo ${messageId}`, { messageId })
  await follower.completed(messageId)
  await follower.stop()
  return follower.events()
}

// Three servers are started one after the other.
test('a backup and the keys of its time are the whole gateway: keys, secrets, conversations and their numbers', {
  timeout: 300_000,
}, async ({ cluster }) => {
  const conversation = await cluster.open()
  const before = await say(conversation, 'before')
  const { organizationSlug } = (await cluster.database.sql`select slug as "organizationSlug" from organizations`)[0]!
  const put = { body: { value: 'the-value-of-a-secret' } }
  expect((await cluster.call('PUT', `/api/${organizationSlug}/secrets/KEPT`, put)).status).toBeLessThan(300)

  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-restore-'))
  const dump = path.join(dir, 'lobu.dump')
  const { DATABASE_URL: url } = cluster.env
  expect(await run('pg_dump', ['--format=custom', `--file=${dump}`, url!])).toMatchObject({ code: 0 })

  // The drill says whether this backup is one.
  const drill = await run(DRILL, [dump], SECRETS)
  expect(drill, drill.output).toMatchObject({ code: 0 })
  expect(drill.output).toContain('1 conversations, 2 messages, 1 sealed secrets; the keys open them')
  const keyless = await run(DRILL, [dump], { ...SECRETS, JWT_SECRET: 'kT5v0yqWQ2n8sT4vR7uXzC1dF6gH9jLm' })
  expect(keyless.code).not.toBe(0)
  expect(keyless.output).toContain('are these the keys of that time?')

  // Restored for real: what clients hold goes on to work.
  await cluster.database.sql`create database restored`
  const restoredUrl = new URL(url!)
  restoredUrl.pathname = '/restored'
  expect(await run('pg_restore', ['--no-owner', `--dbname=${restoredUrl}`, dump])).toMatchObject({ code: 0 })
  const gateway = await startGateway({ ...cluster.env, DATABASE_URL: restoredUrl.href })
  try {
    await gateway.ready()
    const events = `${gateway.url}/api/v1/agents/${conversation.id}/events`
    const follower = await followEvents(events, { token: conversation.token, lastEventId: before.at(-1)!.id })
    const body = { content: '/echo after', messageId: 'after' }
    const { token } = conversation
    const messages = `${gateway.url}/api/v1/agents/${conversation.id}/messages`
    expect((await sendRequest('POST', messages, { token, body })).status).toBe(200)
    await follower.completed('after')
    await follower.stop()
    const acknowledged = ['before', 'after'].map((answer) => ({ messageId: answer, answer }))
    const all = [...before, ...follower.events()]
    expect(findFaults([{ name: 'restored', acknowledged, events: all, after: 0 }])).toEqual([])
    const secrets = await sendRequest('GET', `${gateway.url}/api/${organizationSlug}/secrets`, { token: cluster.key })
    expect(secrets.text).toContain('KEPT')
  } finally {
    await gateway.destroy()
    await rm(dir, { recursive: true, force: true })
  }
})
