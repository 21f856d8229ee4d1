import { Socket } from 'node:net'
import { Duplex } from 'node:stream'

/**
 * The socketpair as a stream whose writes are never held up: what the kernel does not take at once waits here, bounded
 * by the windows that the gateway grants.
 *
 * Node's HTTP/2 session stops reading while a write of its own is stuck. When both ends of a socketpair, whose buffer
 * is about 200 KB, write at the same time, both would be stuck for ever: each waits for the other to read. It takes one
 * end that always reads to prevent that, and it is this one, so that the gateway's stays native and bounded by the kernel.
 */
export function openGatewaySocket(fd: number): Duplex {
  const socket = new Socket({ fd, readable: true, writable: true })
  const stream = new Duplex({
    read() {
      socket.resume()
    },
    write(chunk, _encoding, done) {
      socket.write(chunk)
      done()
    },
    final(done) {
      socket.end(done)
    },
    destroy(error, done) {
      socket.destroy()
      done(error)
    },
  })
  socket.on('data', (chunk) => {
    if (!stream.push(chunk)) socket.pause()
  })
  socket.once('end', () => stream.push(null))
  socket.once('close', () => stream.destroy())
  socket.on('error', (error) => stream.destroy(error))
  return stream
}
