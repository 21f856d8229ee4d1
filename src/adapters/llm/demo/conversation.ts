import { z } from 'zod'

const Content = z.union([z.string(), z.array(z.looseObject({ type: z.string(), text: z.string().optional() }))])

const Message = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: Content.nullish(),
  tool_calls: z.array(z.looseObject({ function: z.looseObject({ name: z.string() }) })).nullish(),
})

/** The part of OpenAI's chat completion request that the built-in model reads; the rest is ignored. */
export const ChatRequest = z.looseObject({
  model: z.string().default('demo'),
  messages: z.array(Message).min(1).max(100_000),
  tools: z.array(z.looseObject({ function: z.looseObject({ name: z.string() }).optional() })).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
})
export type ChatRequest = z.infer<typeof ChatRequest>

/** One message, flattened: its text, and the names of the tools that it calls. */
export interface Said {
  role: string
  text: string
  calls: string[]
}

export interface Conversation {
  said: Said[]
  /** What an earlier attempt already said of the answer that is now asked for. Empty: nothing. */
  prefix: string
  /** Names of the tools on offer. */
  tools: string[]
}

/**
 * Reads a request. A trailing assistant text with a user message `continueNote` after it is no part of the
 * conversation: it is the beginning of the answer that is wanted, and becomes `prefix`.
 */
export function readConversation(request: ChatRequest, continueNote: string): Conversation {
  const said = request.messages.map((message) => ({
    role: message.role,
    text: textOf(message.content),
    calls: (message.tool_calls ?? []).map((call) => call.function.name),
  }))
  let prefix = ''
  while (endsWithPartial(said, continueNote)) {
    prefix = said.at(-2)!.text + prefix
    said.splice(-2)
  }
  const tools = (request.tools ?? []).flatMap((tool) => tool.function?.name ?? [])
  return { said, prefix, tools }
}

function endsWithPartial(said: Said[], continueNote: string): boolean {
  const [partial, note] = said.slice(-2)
  if (partial?.role !== 'assistant' || partial.calls.length > 0) return false
  return note?.role === 'user' && note.text.trim() === continueNote.trim()
}

function textOf(content: z.infer<typeof Content> | null | undefined): string {
  if (content === null || content === undefined) return ''
  if (typeof content === 'string') return content
  return content.map((part) => (part.type === 'text' ? (part.text ?? '') : `[${part.type}]`)).join('\n')
}
