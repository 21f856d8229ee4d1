import type { AssistantModelMessage, ModelMessage } from 'ai'
import { CONTINUE_NOTE } from '../protocol.ts'

type Parts = Exclude<AssistantModelMessage['content'], string>

/**
 * The messages for a model call that goes on after `partialText`, which was streamed and then cut off.
 * Blank text is not worth a message; providers refuse it.
 */
export function continueAfter(messages: ModelMessage[], partialText: string): ModelMessage[] {
  if (partialText.trim() === '') return messages
  return [...messages, { role: 'assistant', content: partialText }, { role: 'user', content: CONTINUE_NOTE }]
}

/** Puts `partialText` before the text of a step's answer, so that the two are one text, as the reader saw it. */
export function joinPartialText(messages: ModelMessage[], partialText: string): ModelMessage[] {
  if (partialText === '') return messages
  const at = messages.findIndex((message) => message.role === 'assistant')
  if (at < 0) return [{ role: 'assistant', content: [{ type: 'text', text: partialText }] }, ...messages]
  const answer = messages[at] as AssistantModelMessage
  return messages.with(at, { ...answer, content: prefixText(partsOf(answer), partialText) })
}

function prefixText(parts: Parts, prefix: string): Parts {
  const at = parts.findIndex((part) => part.type === 'text')
  const first = parts[at]
  if (first?.type === 'text') return parts.with(at, { ...first, text: prefix + first.text })
  // Reasoning stays in front: providers want it there.
  const afterReasoning = parts.findIndex((part) => part.type !== 'reasoning')
  return parts.toSpliced(afterReasoning < 0 ? parts.length : afterReasoning, 0, { type: 'text', text: prefix })
}

/**
 * Drops tool calls that have no result, as a step leaves them that ran out of tokens in the middle of one. A provider
 * refuses a conversation in which a call was never answered.
 */
export function withoutOpenCalls(messages: ModelMessage[]): ModelMessage[] {
  const answered = new Set<string>()
  for (const message of messages) {
    if (message.role !== 'tool' && message.role !== 'assistant') continue
    if (typeof message.content === 'string') continue
    for (const part of message.content) if (part.type === 'tool-result') answered.add(part.toolCallId)
  }
  return messages.flatMap((message): ModelMessage[] => {
    if (message.role !== 'assistant') return [message]
    const parts = partsOf(message).filter((part) => part.type !== 'tool-call' || answered.has(part.toolCallId))
    return parts.length === 0 ? [] : [{ ...message, content: parts }]
  })
}

function partsOf(message: AssistantModelMessage): Parts {
  return typeof message.content === 'string' ? [{ type: 'text', text: message.content }] : message.content
}
