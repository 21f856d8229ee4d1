import { expect, test } from 'vitest'
import { chooseLanes } from './lanes.ts'

const limits = { free: 8, organizationMax: 4, hostMax: 4, laneMax: 2 }
const lane = (organizationId: string, targetHost: string) => ({ organizationId, targetHost })
const ready = (organizationId: string, targetHost: string, count = 1_000) => ({
  ...lane(organizationId, targetHost),
  ready: count,
})

test('one organization with one host gets a quarter of the places, however much it has to do', () => {
  expect(chooseLanes([ready('a', 'x')], [], limits)).toEqual([{ ...lane('a', 'x'), count: 2 }])
})

test('one organization gets half of the places, over all its hosts', () => {
  const lanes = ['x', 'y', 'z'].map((host) => ready('a', host))
  const chosen = chooseLanes(lanes, [], limits)
  expect(chosen.reduce((sum, { count }) => sum + count, 0)).toBe(4)
})

test('one host gets half of the places, over all organizations, ports and ways to write it', () => {
  const hosts = ['127.0.0.1:1', '127.0.0.1:2', '0x7f000001', '127.1', '2130706433:80', '127.0.0.1']
  const chosen = chooseLanes(
    hosts.map((host, index) => ready(`org${index}`, host)),
    [],
    limits,
  )
  expect(chosen.reduce((sum, { count }) => sum + count, 0)).toBe(4)
})

test('calls under way count', () => {
  const underWay = [lane('a', 'x'), lane('a', 'x'), lane('a', 'y'), lane('b', 'y')]
  expect(chooseLanes([ready('a', 'x'), ready('a', 'y'), ready('b', 'y')], underWay, { ...limits, free: 4 })).toEqual([
    { ...lane('a', 'y'), count: 1 },
    { ...lane('b', 'y'), count: 1 },
  ])
})

test('a free place goes to the organization that has the fewest', () => {
  const underWay = [lane('a', 'x'), lane('b', 'y')]
  const lanes = [ready('a', 'z'), ready('b', 'z'), ready('c', 'z')]
  expect(chooseLanes(lanes, underWay, { ...limits, free: 1 })).toEqual([{ ...lane('c', 'z'), count: 1 }])
})

test('no more is chosen than is ready and free', () => {
  const lanes = [ready('a', 'x', 1), ready('b', 'y', 1), ready('c', 'z', 1)]
  expect(chooseLanes(lanes, [], limits)).toHaveLength(3)
  expect(chooseLanes(lanes, [], { ...limits, free: 2 })).toHaveLength(2)
  expect(chooseLanes([], [], limits)).toEqual([])
})
