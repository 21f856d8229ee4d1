import { type Listen, readParse, readQuery } from './commands.ts'
import {
  CANCEL_REQUEST,
  createPacketReader,
  cstring,
  GSS_ENCRYPTION_REQUEST,
  joined,
  message,
  SSL_REQUEST,
  textAt,
} from './protocol.ts'

/** The client's end of one connection. */
export interface Peer {
  send(bytes: Uint8Array): void
  /** Ends the connection after what was sent. */
  close(): void
}

/**
 * One connection: cuts the client's bytes into messages and keeps what Postgres would keep for each connection,
 * which the one session of the engine cannot: named statements, LISTEN channels, whether an exchange is open.
 *
 *   startup ──StartupMessage──► open ──messages──► batch (take) ──replies──► open
 *                                └──drop──► one last batch that rolls back and frees statements ──► gone
 */
export interface Session {
  readonly peer: Peer
  receive(bytes: Uint8Array): void
  /** All whole messages that wait, as one batch for the engine; undefined when there are none. */
  take(): Batch | undefined
  /** Notes the transaction status of the last ReadyForQuery in the replies to a batch. */
  settle(status: string | undefined): void
  /** True while the engine must serve nobody else: in a transaction, or between a message and its Sync. */
  readonly holds: boolean
  readonly gone: boolean
  listensTo(channel: string): boolean
  drop(): void
}

/** What one turn of the engine runs. */
export interface Batch {
  bytes: Buffer
  /** The batch ends an exchange, so that the replies to it must contain ReadyForQuery. */
  complete: boolean
}

/** Message types that make Postgres answer with ReadyForQuery: Query, Sync, FunctionCall. */
const ENDS_EXCHANGE = 'QSF'

/** Starts with the connection's first packet; `greeting` is the answer to it. */
export function createSession(peer: Peer, greeting: Uint8Array): Session {
  const reader = createPacketReader()
  const channels = new Set<string>()
  const statements = new Map<string, Listen | undefined>()
  let queue: Buffer[] = []
  let started = false
  let gone = false
  let cleaned = false
  let exchangeOpen = false
  let status = 'I'

  function startUp(packet: Buffer) {
    const code = packet.readInt32BE(4)
    if (code === SSL_REQUEST || code === GSS_ENCRYPTION_REQUEST) return peer.send(Buffer.from('N'))
    // A statement cannot be interrupted: it keeps the engine's thread. Closing is all the answer a cancel request has.
    if (code === CANCEL_REQUEST) return end()
    started = true
    peer.send(greeting)
  }

  function applyListen(listen: Listen | undefined) {
    if (!listen) return
    if (listen.listen && listen.channel !== undefined) channels.add(listen.channel)
    else if (listen.channel !== undefined) channels.delete(listen.channel)
    else channels.clear()
  }

  function startQuery(packet: Buffer): Buffer {
    const command = readQuery(packet)
    applyListen(command.listen)
    return command.packet
  }

  function prepare(packet: Buffer): Buffer {
    const command = readParse(packet)
    statements.set(command.name, command.listen)
    return command.packet
  }

  function readMessage(packet: Buffer) {
    const type = String.fromCharCode(packet[0] ?? 0)
    if (type === 'X') return end()
    queue.push(type === 'Q' ? startQuery(packet) : type === 'P' ? prepare(packet) : packet)
    // A prepared LISTEN takes effect each time it is bound, not when it is parsed.
    if (type === 'B') applyListen(statements.get(textAt(packet, textAt(packet, 5).end).text))
    if (type === 'C' && packet[5] === 0x53) statements.delete(textAt(packet, 6).text)
  }

  function end() {
    peer.close()
    drop()
  }

  function drop() {
    gone = true
    queue = []
    channels.clear()
  }

  /**
   * Undoes what a lost connection left in the engine. Executing a portal that does not exist fails, and so rolls back
   * even an exchange without Sync, which the Sync would commit; ROLLBACK then ends an explicit transaction.
   */
  function cleanUp(): Batch | undefined {
    const names = [...statements.keys()].filter((name) => name !== '')
    const sync = message('S')
    const abort = [message('E', cstring('-'), Buffer.alloc(4)), sync, message('Q', cstring('rollback'))]
    const close = [...names.map((name) => message('C', cstring(`S${name}`))), sync]
    const parts = [...(holds() ? abort : []), ...(names.length > 0 ? close : [])]
    exchangeOpen = false
    cleaned = true
    return parts.length > 0 ? { bytes: Buffer.concat(parts), complete: true } : undefined
  }

  const holds = () => exchangeOpen || status !== 'I'

  return {
    peer,
    receive(bytes) {
      reader.push(bytes)
      for (let packet = reader.next(started); packet && !gone; packet = reader.next(started)) {
        if (started) readMessage(packet)
        else startUp(packet)
      }
    },
    take() {
      if (gone) return cleaned ? undefined : cleanUp()
      const last = queue.at(-1)
      if (!last) return undefined
      const bytes = joined(queue)
      queue = []
      exchangeOpen = !ENDS_EXCHANGE.includes(String.fromCharCode(last[0] ?? 0))
      return { bytes, complete: !exchangeOpen }
    },
    settle(next) {
      status = next ?? status
    },
    get holds() {
      return holds()
    },
    get gone() {
      return gone
    },
    listensTo: (channel) => channels.has(channel),
    drop,
  }
}
