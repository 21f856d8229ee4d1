import type { Lane } from '../../queue/outbox.ts'

interface LaneLimits {
  /** Calls that may start now. */
  free: number
  /** Calls at once, those under way among them, of one organization, to one host, and of one organization to one host. */
  organizationMax: number
  hostMax: number
  laneMax: number
}

/**
 * Chooses from which lanes the next calls are claimed, and how many. Each slot goes to the organization that has the
 * fewest calls under way, so that one with a thousand calls to a host that hangs takes its share and no more. The answer
 * is in the order of `lanes`.
 */
export function chooseLanes(
  lanes: readonly (Lane & { ready: number })[],
  underWay: Iterable<Lane>,
  limits: LaneLimits,
): (Lane & { count: number })[] {
  const counts = new Map<string, number>()
  const countOf = (key: string) => counts.get(key) ?? 0
  const add = (lane: Lane) => {
    for (const key of keysOf(lane)) counts.set(key, countOf(key) + 1)
  }
  for (const lane of underWay) add(lane)

  const chosen = lanes.map((lane) => ({ lane, count: 0, keys: keysOf(lane) }))
  for (let slot = 0; slot < limits.free; slot++) {
    const open = chosen.filter(({ lane, count, keys: [organization, host, both] }) => {
      const hasRoom = countOf(organization) < limits.organizationMax && countOf(host) < limits.hostMax
      return count < lane.ready && hasRoom && countOf(both) < limits.laneMax
    })
    const [next] = open.toSorted((a, b) => countOf(a.keys[0]) - countOf(b.keys[0]))
    if (!next) break
    next.count++
    add(next.lane)
  }
  return chosen
    .filter(({ count }) => count > 0)
    .map(({ lane: { organizationId, targetHost }, count }) => ({ organizationId, targetHost, count }))
}

/** Ports of one host, and the ways to write it, count as one. */
function keysOf({ organizationId, targetHost }: Lane): [organization: string, host: string, both: string] {
  const host = URL.parse(`http://${targetHost}`)?.hostname ?? targetHost
  return [`organization ${organizationId}`, `host ${host}`, `both ${organizationId} ${host}`]
}
