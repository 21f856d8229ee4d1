import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface TcpProxy {
  /** The URL given, with this proxy as its host. */
  url: string
  /** From now on nothing is passed on, new connections included, and nobody is told: a peer that vanished. */
  freeze(): void
  /** Passes on again, for connections made from now on. */
  thaw(): void
  /** Breaks all connections with a reset, which the other side sees as an error and not as an end. */
  reset(): void
  /** Connections that are open. */
  count(): number
  close(): Promise<void>
}

/** A relay on the loopback in front of a server, to do to its connections what networks do. */
export async function startTcpProxy(url: string, { port: ownPort = 0 } = {}): Promise<TcpProxy> {
  const { hostname, port } = new URL(url)
  const pairs = new Set<[Socket, Socket]>()
  let frozen = false
  const server = createServer((client) => {
    const upstream = connect(Number(port || 5432), hostname)
    const pair: [Socket, Socket] = [client, upstream]
    pairs.add(pair)
    for (const [from, to] of [pair, [upstream, client]] as const) {
      from.on('data', (chunk) => !frozen && to.write(chunk))
      from.on('error', () => {})
      from.on('close', () => {
        pairs.delete(pair)
        if (!frozen) to.destroy()
      })
    }
  })
  await new Promise<void>((resolve) => server.listen(ownPort, '127.0.0.1', resolve))
  const own = new URL(url)
  own.hostname = '127.0.0.1'
  own.port = String((server.address() as AddressInfo).port)
  return {
    url: own.href,
    freeze() {
      frozen = true
    },
    thaw() {
      frozen = false
    },
    reset() {
      for (const [client] of pairs) client.resetAndDestroy()
    },
    count: () => pairs.size,
    async close() {
      for (const pair of pairs) for (const socket of pair) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
