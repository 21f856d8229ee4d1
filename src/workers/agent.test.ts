import type { ModelMessage } from 'ai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createProcessLauncher } from './launcher.ts'
import { CONTINUE_NOTE, type StepRecord } from './protocol.ts'
import {
  createFakeModel,
  createScripts,
  isAlive,
  log,
  type ModelCall,
  runTurn,
  SOURCE_ENTRY,
  startRig,
} from './test-rig.ts'

/** What the model does next; one real worker serves all tests of this file. */
let play: (call: ModelCall) => void = () => {}
let rig: Awaited<ReturnType<typeof startRig>>
const { model, calls } = createFakeModel((call) => play(call))

beforeAll(async () => {
  rig = await startRig({ requests: { model } })
})
afterAll(() => rig.pool.stop())

function lastStep(): StepRecord {
  return rig.steps.at(-1)!
}

describe('an answer that was cut off', () => {
  it('is continued as one text, without the note that asked for it', async () => {
    play = (call) => {
      call.say(' upon a')
      call.say(' time')
      call.finish()
    }
    const { end, heard } = await runTurn(rig, { turn: { partialText: 'Once' } })
    expect(end.status).toBe('completed')
    expect(heard.text).toBe(' upon a time')
    expect(calls.at(-1)!.messages.slice(-2)).toEqual([
      { role: 'assistant', content: 'Once' },
      { role: 'user', content: CONTINUE_NOTE },
    ])
    expect(lastStep().messages).toEqual([{ role: 'assistant', content: [{ type: 'text', text: 'Once upon a time' }] }])
  })

  it('keeps its beginning when it goes on with a tool, and only for that step', async () => {
    play = (call) => {
      if (call.messages.some((message) => message.role === 'tool')) call.say('Done.')
      else call.callTool('current_time', {})
      call.finish(call.messages.some((message) => message.role === 'tool') ? 'stop' : 'tool_calls')
    }
    await runTurn(rig, { turn: { partialText: 'Let me see.' } })
    const [first, second] = rig.steps.slice(-2)
    expect(first!.messages[0]!.content).toMatchObject([{ type: 'text', text: 'Let me see.' }, { type: 'tool-call' }])
    expect(second!.messages).toEqual([{ role: 'assistant', content: [{ type: 'text', text: 'Done.' }] }])
    expect([first!.finish, second!.finish]).toEqual(['continues', 'answered'])
    expect(JSON.stringify(calls.at(-1)!.messages)).not.toContain(CONTINUE_NOTE)
  })

  it('that is blank is not shown to the model, but kept', async () => {
    play = (call) => {
      call.say('Hello')
      call.finish()
    }
    await runTurn(rig, { turn: { partialText: '\n\n' } })
    expect(calls.at(-1)!.messages.map(({ role }) => role)).toEqual(['system', 'user'])
    expect(lastStep().messages).toEqual([{ role: 'assistant', content: [{ type: 'text', text: '\n\nHello' }] }])
  })
})

describe('a provider that fails', () => {
  const refuse = (status: number, body: object = {}) => {
    play = ({ res }) => {
      // Without this the SDK waits seconds before it tries again.
      res.writeHead(status, { 'content-type': 'application/json', 'retry-after-ms': '1' })
      res.end(JSON.stringify({ error: { message: 'no', ...body } }))
    }
  }

  it.each([
    [429, 'model_rate_limited', true, 3],
    [503, 'model_overloaded', true, 3],
    [529, 'model_overloaded', true, 3],
    [500, 'model_unavailable', true, 3],
    [504, 'model_timeout', true, 3],
    [401, 'model_auth_failed', false, 1],
    [403, 'model_auth_failed', false, 1],
    [400, 'model_bad_request', false, 1],
  ])('with %i is reported as %s', async (status, code, retryable, tries) => {
    refuse(status)
    const before = calls.length
    const { end } = await runTurn(rig)
    expect(end).toMatchObject({ status: 'failed', error: { code, retryable } })
    expect(calls.length - before).toBe(tries)
  })

  it('says why it refused a request, but never a key', async () => {
    refuse(400, { message: 'prompt is too long\nfor sk-live-0123456789abcdef' })
    const { end } = await runTurn(rig)
    expect(end.error!.message).toBe(
      'The model provider refused the request (HTTP 400): prompt is too long for [redacted]',
    )
  })

  it('before it answers is tried again', async () => {
    const before = calls.length
    play = (call) => {
      if (calls.length === before + 1) {
        call.res.writeHead(503, { 'retry-after-ms': '1' })
        return void call.res.end('busy')
      }
      call.say('Here I am')
      call.finish()
    }
    const { end, heard } = await runTurn(rig)
    expect(end.status).toBe('completed')
    expect(heard.text).toBe('Here I am')
  })

  it.each([
    ['resets the stream', ({ res }: ModelCall) => res.stream.close(2)],
    ['cancels the stream', ({ res }: ModelCall) => res.stream.close(8)],
    ['ends without a reason', ({ res }: ModelCall) => res.end()],
  ])('in the middle of its answer (%s) is not tried again: the text so far is out', async (_, cut) => {
    const before = calls.length
    const saved = rig.steps.length
    play = (call) => {
      call.say('Half an ans')
      setTimeout(() => cut(call), 20)
    }
    const { end, heard } = await runTurn(rig)
    expect(end).toMatchObject({ status: 'failed', error: { code: 'model_stream_cut', retryable: true } })
    expect(heard.text).toBe('Half an ans')
    expect(calls.length).toBe(before + 1)
    expect(rig.steps).toHaveLength(saved)
  })

  it('that is not known here is refused without a call', async () => {
    const before = calls.length
    const { end } = await runTurn(rig, { turn: { model: { provider: 'nobody', modelId: 'x' } } })
    expect(end.error).toMatchObject({ code: 'model_unknown_provider', retryable: false })
    expect(calls).toHaveLength(before)
  })
})

describe('what the model asks for', () => {
  it('a tool that fails, or does not exist, is told to the model, and the turn goes on', async () => {
    const asked = [
      ['current_time', { timeZone: 'Nowhere/Land' }],
      ['launch_rocket', {}],
    ] as const
    for (const [name, input] of asked) {
      play = (call) => {
        const answered = call.messages.some((message) => message.role === 'tool')
        if (answered) call.say('I see.')
        else call.callTool(name, input)
        call.finish(answered ? 'stop' : 'tool_calls')
      }
      const { end, heard } = await runTurn(rig)
      expect(end.status).toBe('completed')
      expect(heard.tools).toEqual([`${name} start`, `${name} end`])
    }
  })

  it('a tool call cut off by the limit of tokens is not kept, the text is', async () => {
    play = (call) => {
      call.say('I will look.')
      call.callTool('current_time', {})
      call.finish('length')
    }
    const { end } = await runTurn(rig)
    expect(end.error).toMatchObject({ code: 'output_exhausted', retryable: false })
    expect(lastStep().messages).toEqual([{ role: 'assistant', content: [{ type: 'text', text: 'I will look.' }] }])
    expect(lastStep().finish).toBe('tokensSpent')
  })

  it('an answer that the provider withholds ends the turn', async () => {
    play = (call) => call.finish('content_filter')
    expect((await runTurn(rig)).end.error).toMatchObject({ code: 'model_content_filtered', retryable: false })
    expect(lastStep().finish).toBe('filtered')
  })
})

describe('what the model is told', () => {
  it('passes files through and fetches nothing', async () => {
    play = (call) => {
      call.say('A pixel.')
      call.finish()
    }
    const data = 'iVBORw0KGgo='
    const content = [
      { type: 'text', text: 'What is this?' },
      { type: 'file', data, mediaType: 'image/png' },
      { type: 'file', data: 'http://127.0.0.1:1/x.png', mediaType: 'image/png' },
    ]
    const { end } = await runTurn(rig, { turn: { messages: [{ role: 'user', content } as ModelMessage] } })
    expect(end.status).toBe('completed')
    expect(calls.at(-1)!.messages.at(-1)!.content).toMatchObject([
      { type: 'text' },
      { image_url: { url: `data:image/png;base64,${data}` } },
      { image_url: { url: 'http://127.0.0.1:1/x.png' } },
    ])
  })

  it('carries the run in each request', async () => {
    play = (call) => {
      call.say('ok')
      call.finish()
    }
    await runTurn(rig, { turn: { runId: 'run-7', fence: 42 } })
    expect(calls.at(-1)!.headers).toMatchObject({ 'x-run-id': 'run-7', 'x-run-fence': '42' })
    expect(lastStep()).toMatchObject({ runId: 'run-7', fence: 42, step: 1, model: 'demo/demo' })
  })
})

it('a worker whose gateway is gone leaves, and takes its group', async () => {
  const scripts = createScripts()
  const options = { entry: SOURCE_ENTRY, args: [], memoryMb: 512, cacheDirs: [] }
  const launcher = createProcessLauncher({ log }, options)
  await launcher.start()
  const launched = launcher.launch()
  const { pid, socket } = (await launched.started)!
  socket.destroy()
  expect(await launched.exited).toMatchObject({ signal: 'SIGKILL' })
  expect(isAlive(pid)).toBe(false)
  await launcher.stop()
  scripts.remove()
})
