import { type Gateway, until } from './gateway.ts'

/** Environment of a replica that is to be looked into: it opens Node's inspector on a free port of the loopback. */
export const INSPECTED = { NODE_OPTIONS: '--inspect=127.0.0.1:0' }

/** A session with the inspector of a replica. */
export interface Inspector {
  /** Resolves with the result. Rejects with what the inspector says, or when it is closed. */
  ask<Result>(method: string, params?: object): Promise<Result>
  close(): void
}

/** The replica was started with `INSPECTED`. The protocol: https://chromedevtools.github.io/devtools-protocol/v8/ */
export async function openInspector(gateway: Gateway): Promise<Inspector> {
  const url = await until(() => /ws:\/\/\S+/.exec(gateway.stderr())?.[0], 'the inspector listens')
  const socket = new WebSocket(url)
  const opened = Promise.withResolvers<void>()
  socket.onopen = () => opened.resolve()
  socket.onerror = () => opened.reject(new Error(`no inspector at ${url}`))
  await opened.promise
  let id = 0
  return {
    ask: <Result>(method: string, params: object = {}) =>
      new Promise<Result>((resolve, reject) => {
        const own = ++id
        socket.addEventListener('close', () => reject(new Error(`${method}: the inspector is gone`)))
        socket.addEventListener('message', ({ data }) => {
          const answer = JSON.parse(String(data))
          if (answer.id !== own) return
          if (answer.error) reject(new Error(`${method}: ${answer.error.message}`))
          else resolve(answer.result)
        })
        socket.send(JSON.stringify({ id: own, method, params }))
      }),
    close: () => socket.close(),
  }
}
