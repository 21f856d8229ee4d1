import { cstring, eachMessage, fatalError, int32, message } from './protocol.ts'
import { type Batch, createSession, type Peer, type Session } from './session.ts'

/** The one Postgres session behind all connections. */
export interface Engine {
  /** Runs a batch of messages and returns all replies. Rejects only when the engine can no longer be used. */
  execute(batch: Uint8Array): Promise<Buffer>
}

/** Bounds, and who is told. */
export interface MultiplexerOptions {
  serverVersion: string
  /** A connection that has held the engine for so long while others waited is reported once. */
  stallMs: number
  /** One that in all this time made others wait without giving the engine work is ended with 57014. */
  idleHoldMsMax: number
  onStall(stall: Stall): void
  /** The engine is lost: nothing is served any more. */
  onFatal(error: unknown): void
}

/** A connection kept others waiting. `idleMs` of `heldMs` the engine had nothing to do. */
export interface Stall {
  heldMs: number
  idleMs: number
  waiting: number
  /** The connection was ended, its transaction rolled back. */
  ended: boolean
}

/** Many connections on one engine. */
export interface Multiplexer {
  /** One more connection; `receive` takes its bytes, `drop` ends it from the client's side. */
  open(peer: Peer): { receive(bytes: Uint8Array): void; drop(): void }
  /** Rolls back what is open. Resolves when the engine is at rest. */
  close(): Promise<void>
}

/** From the first message of a connection to the moment when it lets go of the engine. */
interface Turn {
  session: Session
  since: number
  busyMs: number
  reported: boolean
}

/**
 * Lets many wire-protocol connections share one session. A connection owns the engine from its first message until
 * ReadyForQuery says idle, so that unnamed statements, portals and transactions of two connections never mix;
 * the others wait in line, first come first served. Notifications go to every connection that listens.
 */
export function createMultiplexer(engine: Engine, options: MultiplexerOptions): Multiplexer {
  const sessions = new Set<Session>()
  /** In order of arrival: connections with messages that no turn has taken yet. */
  const waiting = new Set<Session>()
  let turn: Turn | undefined
  let opened = 0
  let tail = Promise.resolve()
  const watch = setInterval(watchTurn, Math.min(1000, options.idleHoldMsMax / 4))

  function wake(session: Session) {
    waiting.add(session)
    tail = tail.then(work).catch(options.onFatal)
  }

  /** Serves until all have their answers, or the owner of the engine must speak next. */
  async function work() {
    for (;;) {
      turn ??= nextTurn()
      if (!turn) return
      const { session } = turn
      waiting.delete(session)
      const batch = session.take()
      if (batch) await serve(turn, batch)
      else if (session.holds) return
      if (session.holds) continue
      report(turn, false)
      turn = undefined
    }
  }

  function nextTurn(): Turn | undefined {
    const [session] = waiting
    return session && { session, since: performance.now(), busyMs: 0, reported: false }
  }

  async function serve(current: Turn, batch: Batch) {
    const startedAt = performance.now()
    const replies = await engine.execute(batch.bytes)
    current.busyMs += performance.now() - startedAt
    const status = deliver(current.session, replies)
    if (batch.complete && status === undefined) throw new Error('the engine gave no ReadyForQuery')
    current.session.settle(status)
  }

  /** Hands out replies, notifications to those who listen. Returns the status of the last ReadyForQuery. */
  function deliver(session: Session, replies: Buffer): string | undefined {
    let status: string | undefined
    let from = 0
    for (const { type, start, end } of eachMessage(replies)) {
      if (type === 'Z') status = String.fromCharCode(replies[start + 5] ?? 0)
      if (type !== 'A') continue
      send(session, replies.subarray(from, start))
      notify(replies.subarray(start, end))
      from = end
    }
    send(session, replies.subarray(from))
    return status
  }

  function send(session: Session, bytes: Buffer) {
    if (!session.gone && bytes.length > 0) session.peer.send(bytes)
  }

  function notify(notification: Buffer) {
    const channel = notification.toString('utf8', 9, notification.indexOf(0, 9))
    for (const session of sessions) if (session.listensTo(channel)) send(session, notification)
  }

  function report(current: Turn, ended: boolean) {
    const heldMs = performance.now() - current.since
    if (heldMs < options.stallMs || waiting.size === 0 || (current.reported && !ended)) return
    current.reported = true
    options.onStall({ heldMs, idleMs: heldMs - current.busyMs, waiting: waiting.size, ended })
  }

  function watchTurn() {
    if (!turn || waiting.size === 0) return
    const idleMs = performance.now() - turn.since - turn.busyMs
    if (idleMs < options.idleHoldMsMax) return report(turn, false)
    report(turn, true)
    const { session } = turn
    session.peer.send(fatalError('57014', 'the connection kept the embedded database waiting while others needed it'))
    session.peer.close()
    drop(session)
  }

  function drop(session: Session) {
    session.drop()
    sessions.delete(session)
    wake(session)
  }

  return {
    open(peer) {
      opened += 1
      const session = createSession(peer, greet(opened, options.serverVersion))
      sessions.add(session)
      return {
        receive(bytes) {
          session.receive(bytes)
          if (session.gone) drop(session)
          else wake(session)
        },
        drop: () => drop(session),
      }
    },
    async close() {
      clearInterval(watch)
      for (const session of sessions) drop(session)
      await tail
    },
  }
}

/** What Postgres says after the startup packet: no password, these settings, ready. */
function greet(connection: number, serverVersion: string): Buffer {
  const settings = {
    server_version: serverVersion,
    server_encoding: 'UTF8',
    client_encoding: 'UTF8',
    DateStyle: 'ISO, MDY',
    TimeZone: 'UTC',
    integer_datetimes: 'on',
    standard_conforming_strings: 'on',
  }
  return Buffer.concat([
    message('R', int32(0)),
    ...Object.entries(settings).map(([name, value]) => message('S', cstring(name), cstring(value))),
    message('K', int32(connection), int32(0)),
    message('Z', Buffer.from('I')),
  ])
}
