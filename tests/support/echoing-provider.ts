import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'

/** A provider of models that quotes the key it was called with in everything it says. Speaks OpenAI's chat completions. */
export interface EchoingProvider {
  /** Base URL with the version path. */
  readonly url: string
  /** Keys that it was called with, in order. */
  readonly keys: string[]
  /** Headers of each call, in order. */
  headers(): IncomingHttpHeaders[]
  stop(): Promise<void>
}

/** What it does is in the last prompt: `fail 400` (or another status), `cut`, or an answer. */
export async function startEchoingProvider(): Promise<EchoingProvider> {
  const keys: string[] = []
  const headers: IncomingHttpHeaders[] = []
  const server = createServer(async (req, res) => {
    const body = await text(req).catch(() => '')
    const key = String(req.headers['x-api-key'] ?? req.headers.authorization ?? '').replace(/^Bearer /, '')
    keys.push(key)
    headers.push(req.headers)
    const status = /fail (\d{3})(?![\s\S]*fail \d{3})/.exec(lastPrompt(body))?.[1]
    if (status) return refuse(res, Number(status), key)
    await answer(res, key, lastPrompt(body).includes('cut'))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    keys,
    headers: () => headers,
    async stop() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

/** The last message of the request, whatever form it has. */
function lastPrompt(body: string): string {
  const { messages = [] } = JSON.parse(body || '{}') as { messages?: unknown[] }
  return JSON.stringify(messages.at(-1) ?? '')
}

function refuse(res: ServerResponse, status: number, key: string) {
  const message = `The key ${key} was refused (${encodeURIComponent(key)})`
  const error = { type: 'invalid_request_error', message, code: 'refused', param: key }
  res.writeHead(status, { 'content-type': 'application/json', 'request-id': key, 'x-request-id': key })
  res.end(JSON.stringify({ type: 'error', error }))
}

/** Streams the key in one event, which arrives in two pieces. */
async function answer(res: ServerResponse, key: string, cut: boolean) {
  res.writeHead(200, { 'content-type': 'text/event-stream', 'x-request-id': key })
  const event = (delta: object, finish: string | null = null) =>
    `data: ${JSON.stringify({
      ...{ id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: 'm' },
      choices: [{ index: 0, delta, finish_reason: finish }],
    })}\n\n`
  const said = event({ role: 'assistant', content: `You called me with ${key}. ` })
  const half = said.indexOf(key) + Math.floor(key.length / 2)
  res.write(said.slice(0, half))
  await new Promise((resolve) => setTimeout(resolve, 20))
  res.write(said.slice(half))
  if (cut) return res.destroy()
  res.end(`${event({ content: 'Done.' })}${event({}, 'stop')}data: [DONE]\n\n`)
}
