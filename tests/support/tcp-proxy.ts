import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface TcpProxy {
  /** The URL given, with this proxy as its host. */
  url: string
  /** From now on nothing is passed on, new connections included, and nobody is told: a peer that vanished. */
  freeze(): void
  /** As `freeze`, behind the next so many pieces that clients send: of a process that stops in the middle of its work. */
  freezeBehind(pieces: number): Promise<void>
  /** Passes on again, for connections made from now on; those that are open stay silent for ever. */
  thaw(): void
  /** Breaks all connections with a reset, which the other side sees as an error and not as an end. */
  reset(): void
  /** From now on, until `thaw`, connections are accepted and closed at once: a balancer with no server behind it. */
  turnAway(): void
  /** Ends all connections in order, as a server does that goes away. */
  hangUp(): void
  /** Connections that are open, and those that ended while it was frozen. */
  count(): number
  /** Connections that were made so far. */
  made(): number
  /** Bytes that the server's side has sent so far. */
  answered(): number
  close(): Promise<void>
}

/** A relay on the loopback in front of a server, to do to its connections what networks do. */
export async function startTcpProxy(url: string, { port: ownPort = 0 } = {}): Promise<TcpProxy> {
  const { hostname, port } = new URL(url)
  const pairs = new Set<[Socket, Socket]>()
  /** Those that were open while it was frozen: what was swallowed is missing in them. */
  const silent = new WeakSet<[Socket, Socket]>()
  let made = 0
  let answered = 0
  let frozen = false
  let turnsAway = false
  /** Of clients, to be passed on before it freezes. */
  let piecesLeft = Number.POSITIVE_INFINITY
  let onFrozen = () => {}
  const server = createServer((client) => {
    made++
    if (turnsAway)
      return void client
        .on('error', () => {})
        .resume()
        .end()
    const upstream = connect(Number(port || 5432), hostname)
    const pair: [Socket, Socket] = [client, upstream]
    pairs.add(pair)
    if (frozen) silent.add(pair)
    for (const [from, to] of [pair, [upstream, client]] as const) {
      from.on('data', (chunk) => {
        if (silent.has(pair)) return
        to.write(chunk)
        if (from === upstream) answered += chunk.length
        if (from === client && --piecesLeft === 0) freeze()
      })
      from.on('error', () => {})
      from.on('close', () => {
        // The other side is not told, but can still be reset.
        if (silent.has(pair)) return
        pairs.delete(pair)
        to.destroy()
      })
    }
  })
  function freeze() {
    frozen = true
    for (const pair of pairs) silent.add(pair)
    onFrozen()
  }
  await new Promise<void>((resolve) => server.listen(ownPort, '127.0.0.1', resolve))
  const own = new URL(url)
  own.hostname = '127.0.0.1'
  own.port = String((server.address() as AddressInfo).port)
  return {
    url: own.href,
    freeze,
    freezeBehind(pieces) {
      piecesLeft = pieces
      return new Promise((resolve) => {
        onFrozen = resolve
      })
    },
    thaw() {
      frozen = false
      turnsAway = false
    },
    turnAway() {
      turnsAway = true
    },
    reset() {
      for (const [client, upstream] of pairs) {
        client.resetAndDestroy()
        upstream.destroy()
      }
    },
    hangUp() {
      for (const [client] of pairs) client.end()
    },
    count: () => pairs.size,
    made: () => made,
    answered: () => answered,
    async close() {
      for (const pair of pairs) for (const socket of pair) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
