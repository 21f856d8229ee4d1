import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { type Call, sendRequest } from '../support/cluster.ts'
import { followEvents } from '../support/follower.ts'
import { type Gateway, until } from '../support/gateway.ts'
import { test } from '../support/programs.ts'
import { wordsUpTo } from '../support/words.ts'

/** What `npm start` does for a newcomer: no settings at all, but for the folder. */
async function makeFolder() {
  const folder = await mkdtemp(path.join(tmpdir(), 'lobu-embedded-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true, maxRetries: 3 }))
  return { LOBU_DATA_DIR: folder }
}

/** The key is printed once, past the log. */
function readKey(gateway: Gateway): Promise<string> {
  return until(() => /^ {4}(lobu_[\w-]+)$/m.exec(gateway.stdout())?.[1], 'the key is printed')
}

/** Says something in the caller's one conversation and returns the answer. */
async function say(gateway: Gateway, key: string, content: string) {
  const call = (method: string, at: string, more: Call) => sendRequest(method, `${gateway.url}${at}`, more)
  const opened = await call('POST', '/api/v1/agents', { token: key, body: {} })
  const { agentId, token } = opened.body as { agentId: string; token: string }
  const follower = await followEvents(`${gateway.url}/api/v1/agents/${agentId}/events`, { token })
  const posted = await call('POST', `/api/v1/agents/${agentId}/messages`, { token, body: { content } })
  const end = await follower.completed(String(posted.body.messageId))
  await follower.stop()
  const history = await call('GET', `/api/v1/agents/${agentId}/history/session/messages`, { token })
  const messages = history.body.messages as { role: string; content: string }[]
  return { token, agentId, answer: end.data.finalText, history: messages.map(({ content }) => content) }
}

test('without any setting it answers, survives kill -9 with all that was said, and lets no second process in', async ({
  programs,
}) => {
  const env = await makeFolder()
  const first = await programs.serve(env)
  const key = await readKey(first)
  const before = await say(first, key, '/echo one')
  expect(before).toMatchObject({ answer: 'one', history: ['/echo one', 'one'] })

  const second = await programs.run(['serve'], { ...env, PORT: '0' })
  expect(second.code).toBe(1)
  expect(second.stderr).toContain('is in use by another process')

  first.signal('SIGKILL')
  await first.exited
  const again = await programs.serve(env)
  await again.ready()
  const after = await say(again, key, '/echo two')
  expect(after).toMatchObject({ agentId: before.agentId, answer: 'two' })
  expect(after.history).toEqual(['/echo one', 'one', '/echo two', 'two'])
  // Its own secrets were kept too: a token from before the crash is still good.
  const status = await sendRequest('GET', `${again.url}/api/v1/agents/${before.agentId}`, { token: before.token })
  expect(status.status).toBe(200)
  again.signal('SIGTERM')
  expect(await again.exited).toEqual({ code: 0, signal: null })
  expect(again.stdout()).not.toContain(key)
})

test('a turn that was cut off by kill -9 is finished after the restart', async ({ programs }) => {
  const env = { ...(await makeFolder()), RUN_LEASE_SECONDS: '1' }
  const first = await programs.serve(env)
  const key = await readKey(first)
  const opened = await sendRequest('POST', `${first.url}/api/v1/agents`, { token: key, body: {} })
  const { agentId, token } = opened.body as { agentId: string; token: string }
  const follower = await followEvents(`${first.url}/api/v1/agents/${agentId}/events`, { token })
  const url = `${first.url}/api/v1/agents/${agentId}/messages`
  const posted = await sendRequest('POST', url, { token, body: { content: '/words 60 /delay 20' } })
  const runId = String(posted.body.runId)
  const streamed = await follower.streamed(String(posted.body.messageId), 10)
  first.signal('SIGKILL')
  await first.exited
  await follower.stop()

  const again = await programs.serve(env)
  await again.ready()
  const run = await until(async () => {
    const answer = await sendRequest('GET', `${again.url}/api/v1/runs/${runId}`, { token })
    return answer.body.endedAt ? answer.body : undefined
  }, 'the run has ended')
  const whole = wordsUpTo(60)
  expect(run).toMatchObject({ status: 'completed', result: whole })
  expect(whole.startsWith(streamed)).toBe(true)
})
