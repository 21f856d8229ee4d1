import { describe, expect } from 'vitest'
import { createScene, type Scene, textOfEvents, USAGE } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { type ClaimedRun, releaseRun } from '../../queue/runs.ts'
import { loadTurn, noteWorker, type TurnContext } from './begin.ts'
import { saveStep } from './save-step.ts'
import { joinSteps, STEP_SEPARATOR } from './streamed-text.ts'

type Happening = { say: string } | { save: string }

/** A turn as it was recorded: a step in three pieces, one that only calls a tool, one in two pieces, a last one. */
const STEPS = ['Let me look.', '', 'Wörld 🎉!', 'Done.']
const RECORDED: Happening[] = [
  { say: 'Let ' },
  { say: 'me ' },
  { say: 'look.' },
  { save: 'Let me look.' },
  { save: '' },
  { say: `${STEP_SEPARATOR}Wörld ` },
  { say: '🎉!' },
  { save: 'Wörld 🎉!' },
  { say: `${STEP_SEPARATOR}Do` },
]

function step(number: number, text: string) {
  return {
    step: number,
    messages: [{ role: 'assistant' as const, content: text }],
    usage: USAGE,
    model: 'demo/demo',
    costMicros: 0,
  }
}

/** Plays a part of a turn; the last `unsent` pieces never reach the queue. */
async function play(scene: Scene, run: ClaimedRun, part: Happening[], unsent: number) {
  const pieces = part.filter((happening) => 'say' in happening)
  const lost = new Set(unsent > 0 ? pieces.slice(-unsent) : [])
  let steps = 0
  for (const happening of part) {
    if ('save' in happening) await saveStep(scene.sql, run, step(++steps, happening.save))
    else if (!lost.has(happening)) await scene.say(run, happening.say)
  }
}

/** What a replica streams that takes up the turn and brings it to its end. */
function restOf(context: TurnContext, savedSteps: number): string {
  let text = context.missingText
  let spoke = context.hasSavedText
  for (const [index, whole] of STEPS.slice(savedSteps).entries()) {
    const begun = index === 0 ? context.partialText : ''
    expect(whole.startsWith(begun), `the worker goes on behind "${begun}"`).toBe(true)
    const rest = whole.slice(begun.length)
    if (begun === '' && rest !== '' && spoke) text += STEP_SEPARATOR
    text += rest
    spoke ||= whole !== ''
  }
  return text
}

describe('a turn whose attempt was cut off', () => {
  test('goes on from any point, on any replica, with every word once', async ({ world }) => {
    const scene = await createScene(world)
    for (let cut = 0; cut <= RECORDED.length; cut++) {
      for (const unsent of [0, 1, 2]) {
        const run = await scene.start(await scene.open())
        const part = RECORDED.slice(0, cut)
        await play(scene, run, part, unsent)
        if (cut % 2 === 0) await scene.publish()
        await releaseRun(scene.sql, run, { delayMs: 0, countAttempt: unsent > 0 })
        const next = await scene.claimOne()
        const context = await loadTurn(scene.sql, next)

        const saved = part.filter((happening) => 'save' in happening)
        expect(context!.messages.slice(1).map((message) => message.content)).toEqual(saved.map((one) => one.save))
        expect(context!.usage.outputTokens).toBe(saved.length * USAGE.outputTokens)
        await scene.say(next, restOf(context!, saved.length))
        await scene.end(next)
        const streamed = textOfEvents(await scene.events(run.conversationId), run.messageId)
        expect(streamed, `cut at ${cut}, ${unsent} unsent`).toBe(joinSteps(STEPS))
        expect(streamed.startsWith(context!.text)).toBe(true)
      }
    }
  })
})

describe('a turn that was cut off behind a step', () => {
  const call = { type: 'tool-call' as const, toolCallId: 'c1', toolName: 'look', input: {} }
  const result = { ...call, type: 'tool-result' as const, output: { type: 'text' as const, value: 'seen' } }
  const said = { type: 'text' as const, text: 'Here it is.' }

  test.for([
    {
      name: 'that only says something is answered',
      messages: [{ role: 'assistant' as const, content: [said] }],
      isAnswered: true,
    },
    {
      name: 'that used a tool goes on',
      messages: [
        { role: 'assistant' as const, content: [said, call] },
        { role: 'tool' as const, content: [result] },
      ],
      isAnswered: false,
    },
    {
      name: 'whose tool ran at the provider is answered',
      messages: [{ role: 'assistant' as const, content: [{ ...call, providerExecuted: true }, result, said] }],
      isAnswered: true,
    },
    { name: 'of which nothing was saved goes on', messages: [], isAnswered: false },
  ])('$name', async ({ messages, isAnswered }, { world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    expect((await loadTurn(scene.sql, run))!.isAnswered).toBe(false)
    await saveStep(scene.sql, run, { step: 1, messages, usage: USAGE, costMicros: 0, model: 'demo/demo' })
    await releaseRun(scene.sql, run, { delayMs: 0, countAttempt: true })
    expect((await loadTurn(scene.sql, await scene.claimOne()))!.isAnswered).toBe(isAnswered)
  })

  test.for([
    { finish: 'continues' as const, isAnswered: false, failed: null },
    { finish: 'answered' as const, isAnswered: true, failed: null },
    { finish: 'filtered' as const, isAnswered: true, failed: 'filtered' },
    { finish: 'tokensSpent' as const, isAnswered: true, failed: 'tokensSpent' },
  ])('ends as the step that is saved last has said: $finish', async ({ finish, ...expected }, { world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await saveStep(scene.sql, run, { ...step(1, 'one'), finish: 'continues' })
    // One that was withheld may have left nothing behind.
    await saveStep(scene.sql, run, {
      ...step(2, 'two'),
      finish,
      messages: finish === 'filtered' ? [] : step(2, 'two').messages,
    })
    await releaseRun(scene.sql, run, { delayMs: 0, countAttempt: true })
    expect(await loadTurn(scene.sql, await scene.claimOne())).toMatchObject(expected)
  })
})

describe('what a worker is given', () => {
  test('is the conversation up to its own message, and the instructions of its agent', async ({ world }) => {
    const scene = await createScene(world)
    await scene.sql`
      update agents set instructions = 'Be brief.', model = 'demo/one' where organization_id = ${scene.organizationId}`
    const conversation = await scene.open()
    const first = await scene.start(conversation)
    await saveStep(scene.sql, first, step(1, 'An answer.'))
    await scene.end(first)
    const run = await scene.start(conversation)
    await scene.post(conversation)

    expect(await loadTurn(scene.sql, run)).toEqual({
      agentId: scene.agentId,
      model: 'demo/one',
      instructions: 'Be brief.',
      messages: [
        { role: 'user', content: `text of ${first.messageId}` },
        { role: 'assistant', content: 'An answer.' },
        { role: 'user', content: `text of ${run.messageId}` },
      ],
      missingText: '',
      partialText: '',
      text: '',
      hasSavedText: false,
      isAnswered: false,
      failed: null,
      usage: { inputTokens: 0, outputTokens: 0, cachedInputTokens: 0 },
    })
  })

  test('has the model that the conversation was opened with', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open({ settings: { model: 'demo/two' } }))
    expect((await loadTurn(scene.sql, run))?.model).toBe('demo/two')
  })

  test('begins with a message of the user, however long the conversation is', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const first = await scene.start(conversation)
    const pairs = Array.from({ length: 300 }, (_, i) => [
      { role: 'assistant' as const, content: `call ${i}` },
      { role: 'tool' as const, content: [] },
    ])
    await saveStep(scene.sql, first, { ...step(1, ''), messages: pairs.flat() })
    await scene.end(first)
    const run = await scene.start(conversation)

    const { messages } = (await loadTurn(scene.sql, run))!
    expect(messages).toEqual([{ role: 'user', content: `text of ${run.messageId}` }])
  })

  test('is nothing when the conversation is gone', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.sql`delete from conversations where id = ${run.conversationId}`
    expect(await loadTurn(scene.sql, run)).toBeNull()
  })
})

test('the next message of a conversation is kept for the replica that worked on the last', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  await scene.sql`insert into replicas (id, version, lease_until) values ('worker-here', '1', now() + interval '1 minute')`
  world.defer(() => scene.sql`delete from replicas where id = 'worker-here'`)
  await noteWorker(scene.sql, run, 'worker-here')
  await scene.end(run)

  await scene.post(run.conversationId)
  expect(scene.signals.ready).toEqual(['worker-here'])
})
