import type { Cluster } from '../support/cluster.ts'
import type { Exit, Gateway } from '../support/gateway.ts'

/** What the chart gives: the `sleep` of preStop, and how long the kubelet waits in all before it kills. */
const PRE_STOP_MS = 5_000
const TERMINATION_MS = 60_000
/** How late an ingress may hear that a pod is leaving: less than preStop, which is what preStop is for. */
const ENDPOINT_LAG_MS = 3_000

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/**
 * Ends a replica as Kubernetes ends a pod: its removal from the endpoints and preStop begin at the same moment, SIGTERM
 * comes after preStop, and SIGKILL when the grace period is over. Resolves with how it ended.
 */
export async function endPod(cluster: Cluster, gateway: Gateway): Promise<Exit> {
  const removal = pause(cluster.random.next() * ENDPOINT_LAG_MS).then(() => cluster.balance({ without: [gateway] }))
  await pause(PRE_STOP_MS)
  gateway.signal('SIGTERM')
  const kill = setTimeout(() => gateway.signal('SIGKILL'), TERMINATION_MS - PRE_STOP_MS)
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
