import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls, type ConnectionOptions as TlsOptions } from 'node:tls'
import { codeOf } from './errors.ts'

export interface Host {
  /** A name, an address, or the folder of a Unix socket. */
  host: string
  port: number
}

export interface SocketOptions {
  /** Tried one after the other, each time from the next on. */
  hosts: Host[]
  tls: false | 'prefer' | TlsOptions
  connectMs: number
  /**
   * A connection ended although nobody had asked for it, and its place in the driver must not be used again. Called as soon
   * as that is seen, before the driver is told. Not for one that failed before the server said a word.
   */
  onLost?(): void
}

/** The sockets of one client of the driver. */
export interface SocketMaker {
  /** For the `socket` option of postgres.js. Never rejects: a socket that cannot be had is one that fails at its first use. */
  open(): Promise<Duplex>
  /** Opens no more: what is asked for from now on fails at its first use. */
  retire(): void
  /** Resolves when it is retired and none is left, so that nothing can be answered any more. */
  readonly gone: Promise<void>
  /** Destroys what is left; sockets that are still being opened, too. */
  destroy(): void
}

/** Asks a server to go on with TLS; it answers with one letter. https://www.postgresql.org/docs/current/protocol-flow.html */
const TLS_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

/**
 * Opens connections in place of postgres.js (3.4.9), for these reasons:
 *
 * - Its connection objects outlive their sockets, and what a lost socket leaves in them spoils the next one: rows that
 *   had arrived shift the next result, bytes not yet sent block it, an error is reported to somebody else. `onLost` is for
 *   not using such an object again.
 * - When a socket breaks with an error, what is sent between the events `error` and `close` is forgotten, and the first
 *   answer on the next socket is taken for the answer to that: an INSERT that never arrived looks done, a caller gets what
 *   another asked for. The driver's `closed` does so only when `close` reports an error, so it reports none.
 * - A server without TLS is told from one that is away, and `destroy` ends connections whose peer is gone.
 * - Where a socket closes without an error, it connects again for the query for which that was opened, without a pause or
 *   an end; so there is always an error, which it tells to that query. A client that is ended does the same for what still
 *   waits in it; once retired, the maker fails all that.
 * - What closes before the server has said a word (`CONNECT_CLOSED`: a balancer without a server behind it) is told from a
 *   connection that is lost.
 * - Nagle's algorithm is off.
 */
export function createSocketMaker({ hosts, tls, connectMs, onLost = () => {} }: SocketOptions): SocketMaker {
  const first = hosts[0]!
  const ended = () => connectError('CONNECTION_ENDED', first.host, first.port)
  const alive = new Set<Duplex>()
  let turn = 0
  const { promise: gone, resolve: resolveGone } = Promise.withResolvers<void>()
  let opening = 0
  /** Hosts whose last connection was closed before the server had said a word. */
  const closing = new Set<Host>()
  let retired = false
  let destroyed = false

  /** The next host that is not known to close connections, and then the others. */
  function inOrder(): Host[] {
    const at = turn++ % hosts.length
    const rotated = [...hosts.slice(at), ...hosts.slice(0, at)]
    return [...rotated.filter((host) => !closing.has(host)), ...rotated.filter((host) => closing.has(host))]
  }

  async function openAny(): Promise<Duplex> {
    let failure: unknown
    for (const host of inOrder()) {
      try {
        const watcher = watch(host)
        return supervise(await openOne(host, tls, connectMs), watcher)
      } catch (error) {
        failure = error
      }
    }
    throw failure
  }

  function watch(host: Host): Watcher {
    // Then there was no better one, and whoever waits is told.
    const isLastResort = hosts.length === 1 || closing.has(host)
    return {
      ...{ host, onLost },
      onAnswer: () => void closing.delete(host),
      isNextTried() {
        closing.add(host)
        return !isLastResort
      },
    }
  }

  function look() {
    if (retired && opening === 0 && alive.size === 0) resolveGone()
  }

  return {
    gone,
    async open() {
      opening++
      const opened = retired ? Promise.reject(ended()) : openAny()
      const fail = (error: Error) => supervise(failingSocket(error), { host: first, ...NOT_CONNECTED })
      const socket = await opened.catch(fail)
      opening--
      alive.add(socket)
      socket.on('close', () => {
        alive.delete(socket)
        look()
      })
      if (destroyed) socket.destroy(ended())
      return socket
    },
    retire() {
      retired = true
      look()
    },
    destroy() {
      retired = true
      destroyed = true
      for (const socket of alive) socket.destroy(ended())
    },
  }
}

async function openOne({ host, port }: Host, tls: SocketOptions['tls'], connectMs: number): Promise<Duplex> {
  const path = host.startsWith('/') ? `${host}/.s.PGSQL.${port}` : undefined
  const socket = path === undefined ? connectTcp({ host, port, noDelay: true }) : connectTcp({ path })
  const timer = setTimeout(() => socket.destroy(connectError('CONNECT_TIMEOUT', host, port)), connectMs)
  try {
    await happens(socket, 'connect')
    const ready = tls === false || path !== undefined ? socket : await startTls(socket, host, port, tls)
    // The driver puts them into its messages.
    return Object.assign(ready, { host, port })
  } catch (error) {
    socket.destroy()
    // An error of several addresses at once does not say which host it was.
    throw Object.assign(beforeAnswer(error as Error, host, port), { address: host, port })
  } finally {
    clearTimeout(timer)
  }
}

async function startTls(socket: Socket, host: string, port: number, tls: 'prefer' | TlsOptions): Promise<Socket> {
  socket.write(TLS_REQUEST)
  const [answer] = (await happens(socket, 'data')) as [Buffer]
  if (answer.toString() !== 'S') {
    if (tls === 'prefer') return socket
    throw connectError('ERR_TLS_NOT_OFFERED', host, port)
  }
  const options = tls === 'prefer' ? { rejectUnauthorized: false } : tls
  const secure = connectTls({ socket, ...options, ...(isIP(host) === 0 ? { servername: host } : { host }) })
  await happens(secure, 'secureConnect')
  return secure
}

/** The arguments of the next such event; rejects when the socket breaks or ends before. */
function happens(socket: Socket, event: string): Promise<unknown[]> {
  return new Promise((resolve, reject) => {
    const settle = (work: () => void) => {
      socket.off(event, onEvent)
      socket.off('error', onError)
      socket.off('close', onClose)
      work()
    }
    const onEvent = (...args: unknown[]) => settle(() => resolve(args))
    const onError = (error: Error) => settle(() => reject(error))
    const onClose = () => settle(() => reject(Object.assign(new Error('connection closed'), { code: 'ECONNRESET' })))
    socket.on(event, onEvent).on('error', onError).on('close', onClose)
  })
}

function connectError(code: string, host: string, port: number): Error {
  return Object.assign(new Error(`${code} ${host}:${port}`), { code, address: host, port })
}

/** An error of a connection on which the server has said nothing yet. */
function beforeAnswer(error: Error, host: string, port: number): Error {
  if (!/^(ECONNRESET|EPIPE)$/.test(codeOf(error))) return error
  return Object.assign(connectError('CONNECT_CLOSED', host, port), { cause: error })
}

/**
 * The driver forgets a connection whose socket is refused to it, so it gets one. It breaks at the first write and not before,
 * or the driver would never send again in its place.
 */
function failingSocket(error: Error): Duplex {
  return new Duplex({
    read() {},
    write(_chunk, _encoding, done) {
      done(error)
    },
  })
}

interface Watcher {
  host: Host
  onLost(): void
  /** The server said something. */
  onAnswer(): void
  /** The connection was closed before that. True where the driver shall not be told, and so connects again, to the next host. */
  isNextTried(): boolean
}

const NOT_CONNECTED = { onLost() {}, onAnswer() {}, isNextTried: () => false }

function supervise(socket: Duplex, { host: { host, port }, onLost, onAnswer, isNextTried }: Watcher): Duplex {
  const { emit, end, write } = socket
  let isBegun = false
  let isAnswered = false
  let isNoticed = false
  let hasGoodbye = false
  let hasFailed = false
  const fail = (error: Error) => {
    hasFailed = true
    const told = isAnswered ? error : beforeAnswer(error, host, port)
    if (isBegun && codeOf(told) === 'CONNECT_CLOSED' && isNextTried()) return true
    return socket.listenerCount('error') > 0 && emit.call(socket, 'error', told)
  }
  socket.write = (...args: unknown[]) => {
    isBegun = true
    return (write as (...args: unknown[]) => boolean).apply(socket, args)
  }
  socket.end = (...args: unknown[]) => {
    // The driver says goodbye with a message; Node itself ends a socket whose peer has, without one.
    if (args.length > 0) hasGoodbye = true
    return (end as (...args: unknown[]) => Duplex).apply(socket, args)
  }
  socket.emit = (event: string | symbol, ...args: unknown[]) => {
    if (event === 'data' && !isAnswered) {
      isAnswered = true
      onAnswer()
    }
    if ((event === 'error' || event === 'end' || event === 'close') && !hasGoodbye && !isNoticed) {
      isNoticed = true
      // Before the first answer nothing was asked, and its place can be used again, unless first words wait in it unsent.
      if (isAnswered || !isBegun) onLost()
    }
    if (event === 'error') return fail(args[0] as Error)
    if (event !== 'close') return emit.call(socket, event, ...args)
    if (!hasGoodbye && !hasFailed) fail(connectError('ECONNRESET', host, port))
    return emit.call(socket, 'close', false)
  }
  return socket
}
