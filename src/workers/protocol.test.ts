import { describe, expect, it } from 'vitest'
import { createLineReader } from './protocol.ts'

function readAll(chunks: Buffer[], bytesMax = 100) {
  const lines: string[] = []
  let overflows = 0
  const read = createLineReader({ bytesMax, onLine: (line) => lines.push(line), onOverflow: () => overflows++ })
  for (const chunk of chunks) read(chunk)
  return { lines, overflows }
}

describe('the line reader', () => {
  const text = '{"a":"ünï"}\n\n{"b":"😀"}\nrest'

  it('finds the same lines wherever the bytes are cut', () => {
    const bytes = Buffer.from(text)
    for (let cut = 0; cut <= bytes.length; cut++) {
      expect(readAll([bytes.subarray(0, cut), bytes.subarray(cut)]).lines).toEqual(['{"a":"ünï"}', '{"b":"😀"}'])
    }
    const single = [...bytes].map((byte) => Buffer.from([byte]))
    expect(readAll(single).lines).toEqual(['{"a":"ünï"}', '{"b":"😀"}'])
  })

  it('stops for good at a line that is too long, whether or not it ends', () => {
    const long = Buffer.from('x'.repeat(101))
    const ok = Buffer.from('ok\n')
    expect(readAll([ok, long, ok])).toEqual({ lines: ['ok'], overflows: 1 })
    expect(readAll([Buffer.concat([ok, long, ok, ok])])).toEqual({ lines: ['ok'], overflows: 1 })
    expect(readAll([long.subarray(0, 60), Buffer.concat([long.subarray(60), ok])]).overflows).toBe(1)
    expect(readAll([Buffer.from(`${'x'.repeat(100)}\n`)]).lines).toHaveLength(1)
  })
})
