import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import type { Random } from './random.ts'

export interface LoadBalancer {
  readonly url: string
  /** Where requests may go. To be changed at any time; a frozen replica, which still takes connections, must be left out. */
  setTargets(ports: number[]): void | Promise<void>
  /** From now on a replica that refuses the connection is not skipped: as behind a balancer that only knows readiness. */
  trustTargets(): void
  /** Requests passed on so far, by port. */
  counts(): Map<number, number>
  /** Breaks off all that is open to this replica, as a load balancer does that gave it up. */
  giveUp(port: number): void
  stop(): Promise<void>
}

/**
 * A load balancer without any affinity: each request, a stream's too, goes to a replica picked at random, on a connection
 * of its own. A replica that refuses the connection is skipped; when all do, the answer is 502. What breaks off on one
 * side is broken off on the other.
 */
export async function startLoadBalancer({ random }: { random: Random }): Promise<LoadBalancer> {
  let targets: number[] = []
  let skips = true
  const counts = new Map<number, number>()
  const open = new Map<Socket, number>()

  /** Open from the first moment: one that is still being made when its replica is given up would find it frozen. */
  async function connectAny(ports: number[]): Promise<Socket | undefined> {
    for (const port of ports) {
      const socket = connect(port, '127.0.0.1')
      open.set(socket, port)
      const isConnected = await new Promise<boolean>((resolve) => {
        socket.once('connect', () => resolve(true)).on('error', () => {})
        socket.once('close', () => {
          open.delete(socket)
          resolve(false)
        })
      })
      if (isConnected) return socket
    }
    return undefined
  }

  async function pass(incoming: IncomingMessage, outgoing: ServerResponse) {
    const socket = await connectAny(random.shuffle(targets).slice(0, skips ? undefined : 1))
    if (!socket || socket.destroyed)
      return void outgoing.writeHead(502, { connection: 'close' }).end('no replica takes connections')
    const port = open.get(socket) ?? 0
    counts.set(port, (counts.get(port) ?? 0) + 1)
    const { method, url: path, headers } = incoming
    const upstream = request({
      method,
      path,
      headers: { ...headers, connection: 'close' },
      createConnection: () => socket,
    })
    upstream.on('response', (response) => {
      outgoing.writeHead(response.statusCode ?? 502, { ...response.headers, 'x-served-by': String(port) })
      outgoing.flushHeaders()
      response.pipe(outgoing)
      response.on('error', () => outgoing.destroy())
      response.on('close', () => response.complete || outgoing.destroy())
    })
    upstream.on('error', () => outgoing.destroy())
    outgoing.on('close', () => upstream.destroy())
    incoming.pipe(upstream)
  }

  const server = createServer(
    { keepAlive: false, requestTimeout: 0 },
    (incoming, outgoing) => void pass(incoming, outgoing),
  )
  await new Promise<void>((resolve) => server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    setTargets(ports) {
      targets = ports
    },
    trustTargets() {
      skips = false
    },
    counts: () => counts,
    giveUp(port) {
      for (const [socket, target] of open) if (target === port) socket.destroy()
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
