import type { ModelMessage } from 'ai'
import type { TurnCommand } from '../protocol.ts'
import { runTurn } from './agent-loop.ts'
import { createModels, type ProviderId } from './models.ts'
import { createTools } from './tools.ts'

/** The smallest answer of each provider's wire format that runs through its whole parser. */
const ANSWERS: Record<ProviderId, string[]> = {
  anthropic: [
    '{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}',
    '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"ok"}}',
    '{"type":"content_block_stop","index":0}',
    '{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":1}}',
    '{"type":"message_stop"}',
  ],
  openai: [
    '{"type":"response.created","response":{"id":"r","created_at":0,"model":"m"}}',
    '{"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"i"}}',
    '{"type":"response.output_text.delta","item_id":"i","delta":"ok"}',
    '{"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"i"}}',
    '{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":1}}}',
  ],
  google: [
    '{"candidates":[{"content":{"parts":[{"text":"ok"}],"role":"model"},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":1,"totalTokenCount":2}}',
  ],
  'openai-compatible': chatCompletion(),
  demo: chatCompletion(),
}

function chatCompletion(): string[] {
  return [
    '{"id":"c","created":0,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"ok"},"finish_reason":null}]}',
    '{"id":"c","created":0,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}',
    '[DONE]',
  ]
}

const QUESTION: ModelMessage[] = [{ role: 'user', content: 'ok?' }]

export interface WarmUpOptions {
  signal: AbortSignal
  /** Asked where the model would be. The gateway refuses, and the way there is warm. */
  fetch?: typeof globalThis.fetch
}

/**
 * Runs one turn whose model and gateway are in this function: it loads the provider and has the engine compile what a
 * first turn needs. Reports nothing.
 *
 * @returns whether the turn completed.
 */
export async function warmUp(provider: ProviderId, { signal, fetch }: WarmUpOptions): Promise<boolean> {
  const events = ANSWERS[provider].map((data) => `data: ${data}\n\n`).join('')
  const models = createModels(async (input, init) => {
    await (await fetch?.(input, init))?.text()
    return new Response(events, { headers: { 'content-type': 'text/event-stream' } })
  })
  const link = {
    report() {},
    flushed: async () => {},
    saveStep: async () => 'saved' as const,
    takeSteer: async () => [],
  }
  const turn: TurnCommand = {
    type: 'turn',
    runId: 'warm-up',
    fence: 0,
    model: { provider, modelId: 'warm-up' },
    instructions: 'ok',
    messages: QUESTION,
    partialText: '',
    limits: { stepsMax: 1, outputTokensMax: 16 },
  }
  const outcome = await runTurn({ link, models, tools: createTools() }, turn, signal)
  return outcome.status === 'completed'
}
