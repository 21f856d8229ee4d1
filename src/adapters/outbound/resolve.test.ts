import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import { createResolve } from './resolve.ts'

/** Bytes of an address by the name that is asked for; null for a name that does not exist. */
type Zone = (name: string, family: 4 | 6) => number[] | null

const RECORD_TYPES: Record<number, 4 | 6> = { 1: 4, 28: 6 }

const CNAME = 5
/** `other.invalid` as labels. */
const OTHER_NAME = [5, ...Buffer.from('other'), 7, ...Buffer.from('invalid'), 0]

/**
 * A DNS server on loopback for single questions: https://www.rfc-editor.org/rfc/rfc1035#section-4
 * With `alias` every name is another name for one that has no address.
 */
async function startNameServer(zone: Zone, { alias = false } = {}): Promise<{ address: string; asked: string[] }> {
  const asked: string[] = []
  const socket = createSocket('udp4')
  socket.on('message', (query, from) => {
    const labels: string[] = []
    let at = 12
    for (; query[at] !== 0; at += query[at]! + 1) labels.push(query.toString('latin1', at + 1, at + 1 + query[at]!))
    const name = labels.join('.')
    const type = query.readUInt16BE(at + 1)
    const address = zone(name, RECORD_TYPES[type]!)
    const data = alias ? OTHER_NAME : (address ?? [])
    asked.push(`${name} ${type}`)
    const header = Buffer.alloc(12)
    query.copy(header, 0, 0, 2)
    header.writeUInt16BE(address === null ? 0x8183 : 0x8180, 2)
    header.writeUInt16BE(1, 4)
    header.writeUInt16BE(data.length > 0 ? 1 : 0, 6)
    const record = Buffer.from([0xc0, 12, 0, alias ? CNAME : type, 0, 1, 0, 0, 0, 0, 0, data.length, ...data])
    socket.send(Buffer.concat([header, query.subarray(12, at + 5), ...(data.length > 0 ? [record] : [])]), from.port)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  onTestFinished(() => void socket.close())
  return { address: `127.0.0.1:${socket.address().port}`, asked }
}

const V6 = [0x26, 0x06, 0x47, 0, ...Array<number>(11).fill(0), 1]

test('a name has the addresses of both families', async () => {
  const { address, asked } = await startNameServer((_name, family) => (family === 4 ? [127, 0, 0, 2] : V6))
  expect(await createResolve({ servers: [address] })('both.example', false)).toEqual(['127.0.0.2', '2606:4700::1'])
  expect(asked.sort()).toEqual(['both.example 1', 'both.example 28'])
})

test('one family is enough', async () => {
  const { address } = await startNameServer((_name, family) => (family === 4 ? [] : V6))
  expect(await createResolve({ servers: [address] })('six.example', false)).toEqual(['2606:4700::1'])
})

test('each call asks anew, and gets what the server says then', async () => {
  let last = 1
  const { address } = await startNameServer((_name, family) => (family === 4 ? [127, 0, 0, last++] : []))
  const resolve = createResolve({ servers: [address] })
  expect([await resolve('flip.example', false), await resolve('flip.example', false)]).toEqual([
    ['127.0.0.1'],
    ['127.0.0.2'],
  ])
})

test('a name that does not exist is an error, and no search domain is tried', async () => {
  const { address, asked } = await startNameServer(() => null)
  await expect(createResolve({ servers: [address] })('postgres', false)).rejects.toMatchObject({ code: 'ENOTFOUND' })
  expect(new Set(asked)).toEqual(new Set(['postgres 1', 'postgres 28']))
})

test('a name that leads to another, which has no address, is an error that says so', async () => {
  const { address } = await startNameServer(() => [], { alias: true })
  await expect(createResolve({ servers: [address] })('alias.example', false)).rejects.toMatchObject({ code: 'ENODATA' })
})

test("the operator's own names are looked up as every program of this machine does it", async () => {
  const { address, asked } = await startNameServer(() => null)
  const found = await createResolve({ servers: [address] })('localhost', true)
  expect(found.every((one) => one === '127.0.0.1' || one === '::1')).toBe(true)
  expect(asked).toEqual([])
})
