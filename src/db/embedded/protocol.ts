/**
 * The little of Postgres' wire protocol that the multiplexer reads and writes.
 * https://www.postgresql.org/docs/18/protocol-message-formats.html
 */

/** Stands in place of a protocol version in the first packet of a connection, as the two below. */
export const CANCEL_REQUEST = 80_877_102
/** Asks for TLS; the answer `N` declines. */
export const SSL_REQUEST = 80_877_103
/** Asks for GSSAPI encryption; the answer `N` declines. */
export const GSS_ENCRYPTION_REQUEST = 80_877_104

/** One message: its type letter, its length, its body. */
export function message(type: string, ...body: Uint8Array[]): Buffer {
  const bytes = Buffer.concat([Buffer.alloc(5), ...body])
  bytes.write(type, 'latin1')
  bytes.writeInt32BE(bytes.length - 1, 1)
  return bytes
}

/** Text that ends with a zero byte. */
export function cstring(text: string): Buffer {
  return Buffer.from(`${text}\0`)
}

/** Four bytes, most significant first. */
export function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

/** A Parse message without parameter types. */
export function parse(statement: string, text: string): Buffer {
  return message('P', cstring(statement), cstring(text), Buffer.alloc(2))
}

/** The zero-terminated text at an offset, and the offset behind it. */
export function textAt(bytes: Buffer, start: number): { text: string; end: number } {
  const end = bytes.indexOf(0, start)
  return { text: bytes.toString('utf8', start, end), end: end + 1 }
}

/** An ErrorResponse that announces the end of the connection. */
export function fatalError(code: string, text: string): Buffer {
  const fields = { S: 'FATAL', V: 'FATAL', C: code, M: text }
  return message('E', ...Object.entries(fields).map(([key, value]) => cstring(key + value)), Buffer.alloc(1))
}

/** Walks over whole messages: the letter of each and where it starts and ends. */
export function* eachMessage(bytes: Buffer): Generator<{ type: string; start: number; end: number }> {
  for (let start = 0; start + 5 <= bytes.length; ) {
    const end = start + 1 + bytes.readInt32BE(start + 1)
    yield { type: String.fromCharCode(bytes[start] ?? 0), start, end }
    start = end
  }
}

/** Puts chunks together; a single one is not copied. */
export function joined(chunks: Buffer[]): Buffer {
  const [first] = chunks
  return first && chunks.length === 1 ? first : Buffer.concat(chunks)
}

/** Cuts a stream of bytes into packets. */
export interface PacketReader {
  push(bytes: Uint8Array): void
  /** The next whole packet, or undefined until more bytes come. The first packet of a connection has no type letter. */
  next(hasType: boolean): Buffer | undefined
}

/** Joins chunks only once a whole packet is there, so that a large parameter is copied once. */
export function createPacketReader(): PacketReader {
  let chunks: Buffer[] = []
  let size = 0
  let wanted = 0

  return {
    push(bytes) {
      chunks.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
      size += bytes.byteLength
    },
    next(hasType) {
      const headerBytes = hasType ? 5 : 4
      if (size < Math.max(headerBytes, wanted)) return undefined
      const bytes = joined(chunks)
      chunks = [bytes]
      const length = bytes.readInt32BE(headerBytes - 4) + headerBytes - 4
      wanted = length
      if (size < length) return undefined
      size -= length
      chunks = size > 0 ? [bytes.subarray(length)] : []
      wanted = 0
      return bytes.subarray(0, length)
    },
  }
}
