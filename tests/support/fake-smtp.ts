import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'

export interface ReceivedMail {
  from: string
  to: string[]
  /** Headers and body, as they came, with soft line breaks undone. */
  text: string
}

/** A mail server on the loopback interface, which takes everything or, when told to, nothing. */
export interface FakeSmtp {
  readonly url: string
  readonly mails: ReceivedMail[]
  refuse(refusing: boolean): void
  stop(): Promise<void>
}

/** Speaks as much of https://www.rfc-editor.org/rfc/rfc5321 as a client needs. */
export async function startFakeSmtp(): Promise<FakeSmtp> {
  const mails: ReceivedMail[] = []
  const sockets = new Set<Socket>()
  let refusing = false
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket)).on('error', () => {})
    converse(socket, mails, () => refusing)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `smtp://127.0.0.1:${(server.address() as AddressInfo).port}`,
    mails,
    refuse(next) {
      refusing = next
    },
    async stop() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function converse(socket: Socket, mails: ReceivedMail[], isRefusing: () => boolean) {
  let mail: ReceivedMail = { from: '', to: [], text: '' }
  let buffer = ''
  let inData = false
  const say = (line: string) => void socket.write(`${line}\r\n`)

  function command(line: string) {
    const word = line.slice(0, 4).toUpperCase()
    const address = /<([^>]*)>/.exec(line)?.[1] ?? ''
    if (word === 'EHLO' || word === 'HELO' || word === 'NOOP') return say('250 fake')
    if (word === 'MAIL') mail = { from: address, to: [], text: '' }
    if (word === 'RCPT' && isRefusing()) return say('550 5.1.1 not here')
    if (word === 'RCPT') mail.to.push(address)
    if (word === 'MAIL' || word === 'RCPT' || word === 'RSET') return say('250 ok')
    if (word === 'QUIT') return void socket.end('221 bye\r\n')
    if (word !== 'DATA') return say('502 no')
    inData = true
    say('354 go on')
  }

  say('220 fake')
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    buffer += chunk
    for (let end = buffer.indexOf('\r\n'); end !== -1; end = buffer.indexOf('\r\n')) {
      const line = buffer.slice(0, end)
      buffer = buffer.slice(end + 2)
      if (!inData) command(line)
      else if (line !== '.') mail.text += `${line.replace(/^\.\./, '.')}\n`
      else {
        inData = false
        mails.push({ ...mail, text: undoQuotedPrintable(mail.text) })
        say('250 taken')
      }
    }
  })
}

function undoQuotedPrintable(text: string): string {
  if (!/^content-transfer-encoding: quoted-printable$/im.test(text)) return text
  return text
    .replaceAll('=\n', '')
    .replaceAll(/=([0-9A-F]{2})/g, (_all, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
}
