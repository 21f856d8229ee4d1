import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls, type ConnectionOptions as TlsOptions } from 'node:tls'

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
  /** A connection ended although nobody had asked for it. Called as soon as that is seen, before the driver is told. */
  onLost?(): void
}

/** The sockets of one client of the driver. */
export interface SocketMaker {
  /** For the `socket` option of postgres.js. Never rejects: a socket that cannot be had is one that fails at its first use. */
  open(): Promise<Duplex>
  /** Opens no more: what is asked for from now on fails at its first use. */
  retire(): void
  /** Destroys what is left; sockets that are still being opened, too. */
  destroy(): void
}

/** Asks a server to go on with TLS; it answers with one letter. https://www.postgresql.org/docs/current/protocol-flow.html */
const TLS_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

/**
 * Opens connections in place of postgres.js (3.4.9), for five reasons:
 *
 * - Its connection objects outlive their sockets, and what a lost socket leaves in them spoils the next one: rows that
 *   had arrived shift the next result, bytes not yet sent block it, an error is reported to somebody else. `onLost` is for
 *   not using such an object again.
 * - When a socket breaks with an error, what is sent between the events `error` and `close` is forgotten, and the first
 *   answer on the next socket is taken for the answer to that: an INSERT that never arrived looks done, a caller gets what
 *   another asked for. The driver's `closed` does so only when `close` reports an error, so it reports none.
 * - A server without TLS is told from one that is away, and `destroy` ends connections whose peer is gone.
 * - A client that is ended goes on to connect for what still waits in it, and where the socket breaks at once, again and again
 *   without a pause and without an end. Once retired, the maker fails that instead, which the driver tells to whoever waits.
 * - Nagle's algorithm is off.
 */
export function createSocketMaker({ hosts, tls, connectMs, onLost = () => {} }: SocketOptions): SocketMaker {
  const alive = new Set<Duplex>()
  let turn = 0
  let retired = false
  let destroyed = false

  async function openAny(): Promise<Duplex> {
    let failure: unknown
    for (let tries = 0; tries < hosts.length; tries++) {
      const host = hosts[turn++ % hosts.length]!
      try {
        return await openOne(host, tls, connectMs)
      } catch (error) {
        failure = error
      }
    }
    throw failure
  }

  return {
    async open() {
      const opening = retired
        ? Promise.reject(connectError('CONNECTION_ENDED', hosts[0]!.host, hosts[0]!.port))
        : openAny()
      const socket = await opening.then((opened) => supervise(opened, onLost), failingSocket)
      alive.add(socket)
      socket.on('close', () => alive.delete(socket))
      if (destroyed) socket.destroy()
      return socket
    },
    retire() {
      retired = true
    },
    destroy() {
      retired = true
      destroyed = true
      for (const socket of alive) socket.destroy()
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
    throw Object.assign(error as Error, { address: host, port })
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

/** The driver forgets a connection whose socket is refused to it, so it gets one. It breaks at the first write, when the driver is ready for it. */
function failingSocket(error: unknown): Duplex {
  return new Duplex({
    read() {},
    write(_chunk, _encoding, done) {
      done(error as Error)
    },
  })
}

function supervise(socket: Duplex, onLost: () => void): Duplex {
  const { emit, end } = socket
  let expected = false
  socket.end = (...args: unknown[]) => {
    // The driver says goodbye with a message; Node itself ends a socket whose peer has, without one.
    if (args.length > 0) expected = true
    return (end as (...args: unknown[]) => Duplex).apply(socket, args)
  }
  socket.emit = (event: string | symbol, ...args: unknown[]) => {
    if ((event === 'error' || event === 'end' || event === 'close') && !expected) {
      expected = true
      onLost()
    }
    return event === 'close' ? emit.call(socket, 'close', false) : emit.call(socket, event, ...args)
  }
  return socket
}
