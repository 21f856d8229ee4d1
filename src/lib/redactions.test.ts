import { describe, expect, test } from 'vitest'
import { createRedactions, withoutValue } from './redactions.ts'

const KEY = 'canary-4711-abcab'

describe('known values', () => {
  test('are cut out of any text, whatever stands around them', () => {
    const redactions = createRedactions([KEY, undefined])
    redactions.add('second-value')
    expect(redactions.clean(`a${KEY}b${KEY} second-value`)).toBe('a[redacted]b[redacted] [redacted]')
    expect(redactions.clean('nothing here')).toBe('nothing here')
  })

  test('are found as JSON and URLs write them', () => {
    const value = 'line one\nline "two" & more'
    const redactions = createRedactions([value])
    const line = `${JSON.stringify({ msg: value })} ${encodeURIComponent(value)}`
    expect(redactions.clean(line)).toBe('{"msg":"[redacted]"} [redacted]')
  })

  test('that are too short to be secrets are left alone', () => {
    const redactions = createRedactions(['short'])
    redactions.add('tiny')
    redactions.add('')
    expect(redactions.clean('short tiny')).toBe('short tiny')
  })

  test('that come and go are bounded: the one not used for longest is forgotten, a fixed one never', () => {
    const redactions = createRedactions(['the-fixed-one'], { recentMax: 2 })
    for (const value of ['value-one', 'value-two', 'value-one', 'value-three']) redactions.add(value)
    expect(redactions.clean('the-fixed-one value-one value-two value-three')).toBe(
      '[redacted] [redacted] value-two [redacted]',
    )
  })
})

describe('a stream without a value', () => {
  async function collect(pieces: (string | Uint8Array)[], value: string | undefined) {
    const got: Buffer[] = []
    const body = (async function* () {
      yield* pieces
    })()
    for await (const piece of withoutValue(body, value)) got.push(Buffer.from(piece))
    return got
  }
  const textOf = async (pieces: (string | Uint8Array)[]) => Buffer.concat(await collect(pieces, KEY)).toString('utf8')

  test('does not show it, wherever its pieces are cut', async () => {
    const text = `ünï ${KEY}${KEY} canary-4711-abcanary ${JSON.stringify({ key: KEY })} canary-`
    const expected = `ünï [redacted][redacted] canary-4711-abcanary {"key":"[redacted]"} canary-`
    const bytes = Buffer.from(text)
    for (let at = 0; at <= bytes.length; at++) {
      expect(await textOf([bytes.subarray(0, at), bytes.subarray(at)])).toBe(expected)
    }
    expect(await textOf([...text])).toBe(expected)
  })

  test('holds nothing back that is not its beginning', async () => {
    const got = await collect(['one', ' two', ' can', 'not', ' end'], KEY)
    expect(got.map(String)).toEqual(['one', ' two', ' ', 'cannot', ' end'])
  })

  test('passes as it is where there is none', async () => {
    expect((await collect(['one', ' two'], undefined)).map(String)).toEqual(['one', ' two'])
  })
})
