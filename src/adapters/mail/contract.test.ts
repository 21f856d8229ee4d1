import { describe, expect, test } from 'vitest'
import { startFakeSmtp } from '../../../tests/support/fake-smtp.ts'
import { createMailTransport } from './index.ts'

const MEMBERS = ['smtp'] as const
const MAIL = {
  to: 'ada@example.com',
  subject: 'Your link to sign in',
  text: `Open this link:\n\nhttps://lobu.test/sign-in#link=${'x'.repeat(120)}\n\nBye – Grüße.\n`,
}

async function start() {
  const server = await startFakeSmtp()
  const transport = createMailTransport({ smtp: { url: server.url, from: 'Lobu <lobu@example.com>' } })!
  const stop = async () => {
    await transport.close()
    await server.stop()
  }
  return { server, transport, stop, [Symbol.asyncDispose]: stop }
}

test('without settings there is no mail', () => {
  expect(createMailTransport({ smtp: null })).toBeNull()
})

describe.each(MEMBERS)('%s', (id) => {
  test('hands on sender, receiver, subject and a link of any length in one piece', async () => {
    await using rig = await start()
    expect(rig.transport.id).toBe(id)
    await rig.transport.send(MAIL)
    expect(rig.server.mails).toMatchObject([{ from: 'lobu@example.com', to: [MAIL.to] }])
    const { text } = rig.server.mails[0]!
    expect(text).toContain(`Subject: ${MAIL.subject}`)
    expect(text).toContain(`https://lobu.test/sign-in#link=${'x'.repeat(120)}\n`)
  })

  test.each(['a@example.com, b@example.com', 'a@example.com\r\nbcc: b@example.com', 'a@example.com>\r\nDATA'])(
    'an address is one receiver, whatever is written in it: %j',
    async (to) => {
      await using rig = await start()
      await rig.transport.send({ ...MAIL, to }).catch(() => {})
      for (const mail of rig.server.mails) {
        expect(mail.to.length).toBeLessThanOrEqual(1)
        expect(mail.to).not.toContain('b@example.com')
        expect(mail.text).not.toMatch(/^bcc:/im)
      }
    },
  )

  test('a refusal is said without the address, and the next mail goes out', async () => {
    await using rig = await start()
    rig.server.refuse(true)
    const refused = rig.transport.send(MAIL)
    await expect(refused).rejects.toThrow(/not taken/)
    await expect(refused).rejects.not.toThrow(/ada@/)
    rig.server.refuse(false)
    await rig.transport.send(MAIL)
    expect(rig.server.mails).toHaveLength(1)
  })

  test('a server that is gone is an error, and closing twice is harmless', async () => {
    const rig = await start()
    await rig.server.stop()
    await expect(rig.transport.send(MAIL)).rejects.toThrow(/not taken \(/)
    await rig.transport.close()
    await rig.transport.close()
  })
})
