import { cstring, message, parse, textAt } from './protocol.ts'

/** What a LISTEN or UNLISTEN does to the channels of the connection that sends it. */
export interface Listen {
  listen: boolean
  /** undefined: all channels. */
  channel: string | undefined
}

/** A message as the engine gets it, and the LISTEN that its text holds. */
export interface Command {
  packet: Buffer
  listen: Listen | undefined
}

/** LISTEN and UNLISTEN of one channel, quoted or not, or UNLISTEN of all. */
const LISTEN = /^\s*(un)?listen\s+(?:"((?:[^"]|"")*)"|([^\s";*]+)|\*)\s*;?\s*$/i
const COPY_IN = /^\s*copy\b[^;]*\bfrom\s+stdin\b/i

/** Longer messages hold none of these statements. */
const COMMAND_BYTES_MAX = 2000

/** Reads a Query message. Only a text of one statement is understood. */
export function readQuery(packet: Buffer): Command {
  if (packet.length > COMMAND_BYTES_MAX) return { packet, listen: undefined }
  const { text } = textAt(packet, 5)
  const listen = parseListen(text)
  const replaced = rewrite(text, listen)
  return { packet: replaced === text ? packet : message('Q', cstring(replaced)), listen }
}

/** Reads a Parse message: also the name of the statement that it prepares, empty for the unnamed one. */
export function readParse(packet: Buffer): Command & { name: string } {
  const { text: name, end } = textAt(packet, 5)
  if (packet.length > COMMAND_BYTES_MAX) return { packet, listen: undefined, name }
  const { text } = textAt(packet, end)
  const listen = parseListen(text)
  const replaced = rewrite(text, listen)
  return { packet: replaced === text ? packet : parse(name, replaced), listen, name }
}

function parseListen(text: string): Listen | undefined {
  const match = LISTEN.exec(text)
  if (!match) return undefined
  return { listen: !match[1], channel: match[2]?.replaceAll('""', '"') ?? match[3]?.toLowerCase() }
}

/**
 * What the engine is given in place of `text`. UNLISTEN would end the listening of other connections too, so it names
 * a channel that nobody uses; COPY FROM STDIN would end the engine, which reads its client only between statements.
 */
function rewrite(text: string, listen: Listen | undefined): string {
  if (listen && !listen.listen) return 'unlisten "-"'
  if (!COPY_IN.test(text)) return text
  return `do $$begin raise feature_not_supported using message = 'the embedded database cannot copy from stdin'; end$$`
}
