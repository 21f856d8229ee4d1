import { parseConfig } from '../../src/config.ts'
import { PAGE, PAGE_REPLICAS } from '../chart/value-sets.ts'
import { SECRETS } from '../support/cluster.ts'
import type { Helm, KubernetesObject } from '../support/helm.ts'

/** What the chart tells Kubernetes to do with its pods, and what a pod is told itself. */
export interface PodRules {
  replicas: number
  /** How a replica stops; empty where the chart leaves it to the app. */
  env: { SHUTDOWN_WAIT_SECONDS: string; SHUTDOWN_GRACE_SECONDS: string }
  /** For how long turns may go on in a replica that stops. */
  graceMs: number
  /** How long a pod that shall go is left alone, before SIGTERM. */
  preStopMs: number
  /** After how long it is killed, counted from the same moment as `preStopMs`. */
  terminationMs: number
  /** Fails so often in a row: the pod is restarted. */
  liveness: Probe
  /** Fails so often in a row: the pod gets no more requests. */
  readiness: Probe
}

export interface Probe {
  path: string
  periodMs: number
  timeoutMs: number
  failuresMax: number
}

/** Read from the chart as it is rendered with the published values for several replicas. */
export async function readPodRules(helm: Helm): Promise<PodRules> {
  const objects = await helm.render({ files: [PAGE, PAGE_REPLICAS] })
  const { spec } = objects.find(({ kind }) => kind === 'Deployment')
  const { maxSurge, maxUnavailable } = spec.strategy.rollingUpdate
  if (maxSurge !== 1 || maxUnavailable !== 0) throw new Error('the chart replaces pods otherwise than it is done here')
  const pod = spec.template.spec
  const [{ env: given, lifecycle, livenessProbe, readinessProbe }] = pod.containers
  const settings: Record<string, string> = Object.fromEntries(
    given.map(({ name, value }: KubernetesObject) => [name, value ?? '']),
  )
  const env = {
    SHUTDOWN_WAIT_SECONDS: settings.SHUTDOWN_WAIT_SECONDS ?? '',
    SHUTDOWN_GRACE_SECONDS: settings.SHUTDOWN_GRACE_SECONDS ?? '',
  }
  return {
    replicas: spec.replicas,
    env,
    graceMs: parseConfig({ ...settings, ...SECRETS, DATABASE_URL: 'postgres://db/lobu' }).shutdown.graceMs,
    preStopMs: 1000 * (lifecycle?.preStop.sleep.seconds ?? 0),
    terminationMs: 1000 * pod.terminationGracePeriodSeconds,
    liveness: probeOf(livenessProbe),
    readiness: probeOf(readinessProbe),
  }
}

function probeOf({ httpGet, periodSeconds, timeoutSeconds, failureThreshold }: KubernetesObject): Probe {
  return {
    path: httpGet.path,
    periodMs: 1000 * periodSeconds,
    timeoutMs: 1000 * timeoutSeconds,
    failuresMax: failureThreshold,
  }
}
