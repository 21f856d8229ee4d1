import type { KubernetesObject } from './helm.ts'

/**
 * All that rendered objects hold, by its place: `Deployment lobu-app spec.template.spec.containers[app].image`. Items of
 * lists go by their name, or by their number where they have none.
 */
export function placesOf(objects: KubernetesObject[]): Map<string, unknown> {
  const found = new Map<string, unknown>()
  const walk = (value: unknown, place: string) => {
    found.set(place, value)
    if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) walk(item, `${place}[${item?.name ?? index}]`)
    } else if (value !== null && typeof value === 'object') {
      for (const [key, inner] of Object.entries(value)) walk(inner, `${place}.${key}`)
    }
  }
  for (const object of objects) {
    const name = `${object.kind} ${object.metadata.name}`
    found.set(name, object)
    for (const [key, value] of Object.entries(object)) walk(value, `${name} ${key}`)
  }
  return found
}

/** Places of texts and numbers that are or hold one of those of `value`, as whole words. */
export function placesWith(places: Map<string, unknown>, value: unknown): string[] {
  const words = leavesOf(value).map((leaf) => String(leaf).replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  const pattern = new RegExp(`(?<![A-Za-z0-9])(?:${words.join('|')})(?![A-Za-z0-9])`)
  return [...places].flatMap(([place, held]) =>
    (typeof held === 'string' || typeof held === 'number') && pattern.test(String(held)) ? [place] : [],
  )
}

function leavesOf(value: unknown): unknown[] {
  return value !== null && typeof value === 'object' ? Object.values(value).flatMap(leavesOf) : [value]
}
