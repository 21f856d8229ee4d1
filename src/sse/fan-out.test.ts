import { expect, test, vi } from 'vitest'
import { createFanOut } from './fan-out.ts'
import type { LoggedEvent } from './frames.ts'
import type { Stream } from './stream.ts'

const SLICE = 3

function createStage(count: number) {
  const streams = new Set(Array.from({ length: count }, () => ({ live: true }) as Stream))
  const given = new Map<Stream, number[]>([...streams].map((stream) => [stream, []]))
  const behind = new Set<Stream>()
  let idle = 0
  const fanOut = createFanOut(
    {
      streams,
      write: (stream, events) => given.get(stream)!.push(...events.map((event) => event.seq)),
      fallBehind: (stream) => behind.add(stream),
      onIdle: () => idle++,
    },
    { slice: SLICE },
  )
  return { streams, given, behind, fanOut, idle: () => idle, settled: () => vi.waitUntil(() => idle > 0) }
}

const event = (seq: number, data = '{}'): LoggedEvent => ({ seq, name: 'output', data })

test('few streams are given an event at once', () => {
  const stage = createStage(SLICE)
  stage.fanOut.push([event(1)])
  expect([...stage.given.values()]).toEqual(Array(SLICE).fill([1]))
  expect(stage.idle()).toBe(1)
})

test('others have a turn after each slice, and what comes meanwhile is given to all behind it', async () => {
  const stage = createStage(SLICE * 4)
  let turns = 0
  const turn = () => {
    turns++
    if (turns < 3) stage.fanOut.push([event(turns + 1)])
    if (stage.idle() === 0) setImmediate(turn)
  }
  setImmediate(turn)
  stage.fanOut.push([event(1)])
  expect([...stage.given.values()].filter((seqs) => seqs.length > 0)).toHaveLength(SLICE)
  await stage.settled()
  expect(turns).toBeGreaterThan(3)
  expect([...stage.given.values()]).toEqual(Array(SLICE * 4).fill([1, 2, 3]))
  expect(stage.idle()).toBe(1)
})

test('a stream that ends or turns to the log in between is left alone, one that joins is not passed over', async () => {
  const stage = createStage(SLICE * 2)
  stage.fanOut.push([event(1)])
  const [leaving, slow] = [...stage.streams].slice(SLICE)
  stage.streams.delete(leaving!)
  Object.assign(leaving!, { closed: true })
  slow!.live = false
  const joined = { live: true } as Stream
  stage.given.set(joined, [])
  stage.streams.add(joined)
  await stage.settled()
  expect([leaving, slow, joined].map((stream) => stage.given.get(stream!))).toEqual([[], [], [1]])
})

test('when more comes than may wait, every stream is sent to the log once', async () => {
  const stage = createStage(SLICE * 2)
  const large = 'x'.repeat(1_000_000)
  stage.fanOut.push([event(1)])
  for (let seq = 2; seq < 10; seq++) stage.fanOut.push([event(seq, large)])
  await stage.settled()
  expect(stage.behind).toEqual(stage.streams)
  for (const seqs of stage.given.values()) expect(seqs.length).toBeLessThanOrEqual(1)
})
