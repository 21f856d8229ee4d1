import type { KubernetesObject } from './helm.ts'
import { containersOf, podOf } from './pod-security.ts'

/** One object that another one names. */
export interface Reference {
  from: KubernetesObject
  kind: string
  name: string
}

/** All objects that pods, ingresses, autoscalers and monitors name. */
export function referencesOf(from: KubernetesObject): Reference[] {
  const found: Reference[] = []
  const add = (kind: string, name: string | undefined) => void (name !== undefined && found.push({ from, kind, name }))
  const pod = podOf(from)
  if (pod) {
    add('ServiceAccount', pod.serviceAccountName)
    for (const { name } of pod.imagePullSecrets ?? []) add('Secret', name)
    for (const volume of pod.volumes ?? []) {
      add('ConfigMap', volume.configMap?.name)
      add('Secret', volume.secret?.secretName)
      add('PersistentVolumeClaim', volume.persistentVolumeClaim?.claimName)
    }
    for (const { env = [], envFrom = [] } of containersOf(pod)) {
      for (const { valueFrom } of env) {
        add('Secret', valueFrom?.secretKeyRef?.name)
        add('ConfigMap', valueFrom?.configMapKeyRef?.name)
      }
      for (const { secretRef, configMapRef } of envFrom) {
        add('Secret', secretRef?.name)
        add('ConfigMap', configMapRef?.name)
      }
    }
  }
  const { spec = {}, kind } = from
  if (kind === 'Ingress') {
    for (const { secretName } of spec.tls ?? []) add('Secret', secretName)
    for (const { http } of spec.rules) for (const { backend } of http.paths) add('Service', backend.service.name)
  }
  if (kind === 'HorizontalPodAutoscaler') add(spec.scaleTargetRef.kind, spec.scaleTargetRef.name)
  if (kind === 'ServiceMonitor') {
    for (const { authorization } of spec.endpoints) add('Secret', authorization?.credentials.name)
  }
  return found
}

/** The events that Helm makes an object for; none for what belongs to the release itself. */
export const hooksOf = ({ metadata }: KubernetesObject): string[] =>
  metadata.annotations?.['helm.sh/hook']?.split(',') ?? []

export const weightOf = ({ metadata }: KubernetesObject) => Number(metadata.annotations?.['helm.sh/hook-weight'] ?? 0)

/** Selectors of Services, budgets, policies, monitors and Deployments: what they look for in pods or Services. */
function selectorOf({ kind, spec }: KubernetesObject): { targets: 'Pod' | 'Service'; labels: object } | undefined {
  if (kind === 'Service') return { targets: 'Pod', labels: spec.selector }
  if (kind === 'NetworkPolicy') return { targets: 'Pod', labels: spec.podSelector.matchLabels }
  if (kind === 'ServiceMonitor') return { targets: 'Service', labels: spec.selector.matchLabels }
  if (spec?.selector?.matchLabels) return { targets: 'Pod', labels: spec.selector.matchLabels }
  return undefined
}

/** The Services or the makers of pods that an object selects; undefined for one that selects none by its kind. */
export function selectedBy(from: KubernetesObject, objects: KubernetesObject[]): KubernetesObject[] | undefined {
  const selector = selectorOf(from)
  if (!selector) return undefined
  return objects.filter((one) => {
    const labels = selector.targets === 'Pod' ? podLabelsOf(one) : one.kind === 'Service' && one.metadata.labels
    return labels && Object.entries(selector.labels).every(([name, value]) => labels[name] === value)
  })
}

/** Labels of the pod that an object is or makes. */
export function podLabelsOf(object: KubernetesObject): Record<string, string> | undefined {
  if (object.kind === 'Pod') return object.metadata.labels
  return podOf(object) && object.spec.template.metadata.labels
}
