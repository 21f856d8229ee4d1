import { describe, expect, test } from 'vitest'
import { findHelms } from '../support/helm.ts'
import { placesOf, placesWith } from '../support/places.ts'
import { EFFECTS, type Effect, RENDERS, type Render } from './value-effects.ts'
import { keysOfSchema, keysOfValues } from './value-keys.ts'

const [helm] = await findHelms()

test('the schema knows every value, and no others', () => {
  expect(keysOfSchema()).toEqual(keysOfValues())
})

test('it is written down what every value does', () => {
  expect(Object.keys(EFFECTS).sort()).toEqual(keysOfValues())
})

describe.skipIf(!helm)('a value arrives where it belongs, and nowhere else', () => {
  const rendered = new Map(RENDERS.map((render) => [render, renderPlaces(render)]))

  test.each(Object.entries(EFFECTS))('%s', async (_, effect) => {
    for (const render of RENDERS) {
      const places = await rendered.get(render)!
      const isThere = (place: string | RegExp) =>
        typeof place === 'string' ? places.has(place) : [...places.keys()].some((one) => place.test(one))
      const { at, makes = [], unmakes = [] } = effect
      if (isGiven(effect, render)) {
        if (at) expectPlaces(placesWith(places, effect.value), at, render)
        expect([makes.filter((place) => !isThere(place)), unmakes.filter(isThere)], render).toEqual([[], []])
      } else if (effect.value === true) {
        expect([makes.filter(isThere), unmakes.filter((place) => !isThere(place))], render).toEqual([[], []])
      }
    }
  })
})

const isGiven = ({ in: renders = ['everything'] }: Effect, render: Render) => renders.includes(render)

function renderPlaces(render: Render) {
  const values = {}
  for (const [key, effect] of Object.entries(EFFECTS)) {
    if (isGiven(effect, render)) setValue(values, key, effect.value)
    else if (effect.value === true) setValue(values, key, false)
  }
  const places = helm?.render({ values }).then(placesOf) ?? Promise.resolve(new Map<string, unknown>())
  // Looked at by each test.
  places.catch(() => {})
  return places
}

function setValue(values: Record<string, unknown>, key: string, value: unknown) {
  const groups = key.split('.')
  const last = groups.pop()!
  let group = values
  for (const name of groups) {
    group[name] ??= {}
    group = group[name] as Record<string, unknown>
  }
  group[last] = value
}

/** Each place that was found is expected, and each that is expected was found. */
function expectPlaces(found: string[], expected: (string | RegExp)[], render: Render) {
  const fits = (place: string, one: string | RegExp) => (typeof one === 'string' ? place === one : one.test(place))
  const unexpected = found.filter((place) => !expected.some((one) => fits(place, one)))
  const missing = expected.filter((one) => !found.some((place) => fits(place, one)))
  expect({ render, missing, unexpected }).toEqual({ render, missing: [], unexpected: [] })
}
