import type { Cluster } from '../support/cluster.ts'
import type { Exit, Gateway } from '../support/gateway.ts'

/** Seconds for which a gateway that was told to stop goes on, and for which its turns may; the chart's own defaults. */
export const WAIT_SECONDS = 10
export const GRACE_SECONDS = 25
/** How long the kubelet waits before it kills, as the chart adds it up. */
const TERMINATION_MS = 1000 * (WAIT_SECONDS + GRACE_SECONDS + 25)
/** How late an ingress may hear that a pod is leaving: less than the wait, which is what the wait is for. */
const ENDPOINT_LAG_MS = 5_000

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/**
 * Ends a replica as Kubernetes ends a pod of the chart: SIGTERM and its removal from the endpoints begin at the same moment,
 * the ingress hears of it some time later, and SIGKILL comes when the grace period is over. Resolves with how it ended.
 */
export async function endPod(cluster: Cluster, gateway: Gateway): Promise<Exit> {
  const removal = pause(cluster.random.next() * ENDPOINT_LAG_MS).then(() => cluster.balance({ without: [gateway] }))
  gateway.signal('SIGTERM')
  const kill = setTimeout(() => gateway.signal('SIGKILL'), TERMINATION_MS)
  const exit = await gateway.exited
  clearTimeout(kill)
  await removal
  await gateway.destroy()
  return exit
}

/** A rolling update with `maxSurge: 1, maxUnavailable: 0`: a new replica is ready before an old one is asked to go. */
export async function rollTo(cluster: Cluster, build: string | undefined): Promise<Exit[]> {
  const exits: Exit[] = []
  for (const gateway of cluster.replicas.filter((one) => !one.hasExited())) {
    await cluster.add({}, { build })
    exits.push(await endPod(cluster, gateway))
  }
  return exits
}
