import { type Gateway, until } from './gateway.ts'

const MIB = 1_048_576

/** Environment of a replica whose heap is to be looked into: it opens Node's inspector on a free port of the loopback. */
export const INSPECTED = { NODE_OPTIONS: '--inspect=127.0.0.1:0' }

/** What is left of a replica's heap after a garbage collection, in MiB. The replica was started with `INSPECTED`. */
export async function heapMib(gateway: Gateway): Promise<number> {
  return (await usageOf(gateway)).usedSize / MIB
}

/** The same, and the bytes of buffers. */
export async function heapAndBuffersMib(gateway: Gateway): Promise<number> {
  const { usedSize, backingStorageSize } = await usageOf(gateway)
  return (usedSize + backingStorageSize) / MIB
}

interface HeapUsage {
  usedSize: number
  backingStorageSize: number
}

/** The protocol: https://chromedevtools.github.io/devtools-protocol/v8/ */
async function usageOf(gateway: Gateway): Promise<HeapUsage> {
  const url = await until(() => /ws:\/\/\S+/.exec(gateway.stderr())?.[0], 'the inspector listens')
  const socket = new WebSocket(url)
  const opened = Promise.withResolvers<void>()
  socket.onopen = () => opened.resolve()
  socket.onerror = () => opened.reject(new Error(`no inspector at ${url}`))
  await opened.promise
  let id = 0
  const ask = (method: string) =>
    new Promise<HeapUsage>((resolve) => {
      const own = ++id
      socket.addEventListener('message', ({ data }) => {
        const answer = JSON.parse(String(data))
        if (answer.id === own) resolve(answer.result)
      })
      socket.send(JSON.stringify({ id: own, method }))
    })
  try {
    // What the first one finalizes is taken by the second.
    await ask('HeapProfiler.collectGarbage')
    await ask('HeapProfiler.collectGarbage')
    return await ask('Runtime.getHeapUsage')
  } finally {
    socket.close()
  }
}
