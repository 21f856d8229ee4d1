import type { FilePart, ModelMessage, TextPart } from 'ai'
import type { Sql } from '../../db/client.ts'
import { readFile, type StoredFile } from './files.ts'

/** Text of one attached file that a model is shown. */
const TEXT_BYTES_MAX = 64 * 1024
/** Bytes of one image or document, and of all of them in one turn, that a model is shown. */
const MEDIA_BYTES_MAX = 10 * 1024 * 1024
const TURN_BYTES_MAX = 20 * 1024 * 1024

/** How a stored user message refers to a file: the bytes stay in `file_chunks` until a turn needs them. */
export interface FileReference {
  type: 'lobu-file'
  id: string
  name: string
  mediaType: string
  bytes: number
}

export function toReference(file: StoredFile): FileReference {
  return { type: 'lobu-file', id: file.id, name: file.name, mediaType: file.mediaType, bytes: file.bytes }
}

/**
 * Replaces file references by what a model can read: the text of text files, images and PDFs as they are, and for
 * everything else, or what is too large, a line that names the file. The newest files come first for the budget.
 */
export async function attachFiles(
  sql: Sql,
  args: { organizationId: string; messages: ModelMessage[] },
): Promise<ModelMessage[]> {
  let left = TURN_BYTES_MAX
  const attached: ModelMessage[] = []
  for (const message of [...args.messages].reverse()) {
    if (message.role !== 'user' || typeof message.content === 'string') {
      attached.push(message)
      continue
    }
    const parts: (TextPart | FilePart)[] = []
    for (const part of message.content as (TextPart | FilePart | FileReference)[]) {
      if (part.type !== 'lobu-file') parts.push(part)
      else {
        const shown = part.bytes <= left ? await show(sql, args.organizationId, part) : null
        if (shown) left -= part.bytes
        parts.push(shown ?? mention(part))
      }
    }
    attached.push({ ...message, content: parts })
  }
  return attached.reverse()
}

async function show(sql: Sql, organizationId: string, file: FileReference): Promise<TextPart | FilePart | null> {
  if (isText(file.mediaType) && file.bytes <= TEXT_BYTES_MAX) {
    const text = (await readFile(sql, { organizationId, id: file.id })).toString('utf8')
    return { type: 'text', text: `Attached file "${file.name}":\n\n${text}` }
  }
  if (!isMedia(file.mediaType) || file.bytes > MEDIA_BYTES_MAX) return null
  const data = (await readFile(sql, { organizationId, id: file.id })).toString('base64')
  return { type: 'file', data, mediaType: file.mediaType, filename: file.name }
}

function mention(file: FileReference): TextPart {
  return { type: 'text', text: `Attached file "${file.name}" (${file.mediaType}, ${file.bytes} bytes), not shown.` }
}

const isText = (mediaType: string) => /^text\/|^application\/(json|xml|yaml|x-yaml|csv|javascript|sql)$/.test(mediaType)
const isMedia = (mediaType: string) => /^image\/(png|jpeg|gif|webp)$|^application\/pdf$/.test(mediaType)
