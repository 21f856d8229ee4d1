import { request } from 'node:http'
import { until } from './gateway.ts'

export interface HalfSent {
  /** Sends the rest. Resolves with the status, or with what became of the connection. */
  finish(): Promise<string>
}

/** A request whose body is begun, and awaited by its handler. Rejects when it is answered, or broken off, before that. */
export function sendHalf(
  url: string,
  { path, body, token }: { path: string; body: unknown; token: string },
): Promise<HalfSent> {
  const content = JSON.stringify(body)
  const sent = request(`${url}${path}`, {
    method: 'POST',
    agent: false,
    headers: {
      ...{ authorization: `Bearer ${token}`, 'content-type': 'application/json', expect: '100-continue' },
      'content-length': Buffer.byteLength(content),
    },
  })
  const answered = new Promise<string>((resolve) => {
    sent.on('response', (response) => {
      response.resume().on('end', () => resolve(`${response.statusCode}`))
      response.on('error', (error) => resolve(error.message))
    })
    sent.on('error', (error) => resolve(error.message))
  })
  const begun = new Promise<HalfSent>((resolve, reject) => {
    void answered.then((answer) => reject(new Error(`${path} had "${answer}" before its body was asked for`)))
    sent.once('continue', () => {
      sent.write(content.slice(0, 5))
      resolve({
        finish() {
          sent.end(content.slice(5))
          return until(() => answered, `${path} is answered`)
        },
      })
    })
  })
  return until(() => begun, `the body of ${path} is asked for`)
}
