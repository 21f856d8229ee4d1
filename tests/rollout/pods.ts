import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from '../support/cluster.ts'
import type { Exit, Gateway } from '../support/gateway.ts'
import { keepProbing } from './probes.ts'
import type { PodRules } from './rules.ts'

/** How late an ingress may hear that a pod is leaving. Replicas wait longer than that before they refuse anything. */
const ENDPOINT_LAG_MS = 5_000

/** The replicas of a cluster, treated as Kubernetes treats the pods of the chart. */
export interface Pods {
  /** A rolling update: a new replica is ready before an old one is asked to go. Resolves with how the old ones ended. */
  rollTo(build: string | undefined): Promise<Exit[]>
  /** Ends the probes. Resolves with a sentence for each replica that would have been restarted or left without requests. */
  stop(): Promise<string[]>
}

export function keepPods(cluster: Cluster, rules: PodRules): Pods {
  const watches = new Map<Gateway, AbortController>()
  const probes: Promise<string | undefined>[] = []

  function watch(gateway: Gateway) {
    const end = new AbortController()
    watches.set(gateway, end)
    for (const probe of [rules.liveness, rules.readiness]) probes.push(keepProbing(gateway, probe, end.signal))
  }

  /**
   * The pause before the stop, the grace period and the removal from the endpoints begin at the same moment, which is also
   * the end of the probes; the ingress hears of it some time later, and SIGKILL comes when the grace period is over.
   */
  async function endPod(gateway: Gateway): Promise<Exit> {
    watches.get(gateway)?.abort()
    const removal = sleep(cluster.random.next() * ENDPOINT_LAG_MS).then(() => cluster.balance({ without: [gateway] }))
    const kill = setTimeout(() => gateway.signal('SIGKILL'), rules.terminationMs)
    await sleep(rules.preStopMs)
    gateway.signal('SIGTERM')
    const exit = await gateway.exited
    clearTimeout(kill)
    await removal
    await gateway.destroy()
    return exit
  }

  for (const gateway of cluster.replicas) watch(gateway)
  return {
    async rollTo(build) {
      const exits: Exit[] = []
      for (const gateway of cluster.replicas.filter((one) => !one.hasExited())) {
        watch(await cluster.add({}, { build }))
        exits.push(await endPod(gateway))
      }
      return exits
    },
    async stop() {
      for (const end of watches.values()) end.abort()
      return (await Promise.all(probes)).filter((fault) => fault !== undefined)
    },
  }
}
