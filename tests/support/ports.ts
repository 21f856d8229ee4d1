import type { KubernetesObject } from './helm.ts'
import { containersOf, podOf } from './pod-security.ts'
import { selectedBy } from './references.ts'

/** Ports by name or number that one object asks of others, which do not have them; a sentence each. */
export function portFaults(objects: KubernetesObject[]): string[] {
  return objects.flatMap((from) =>
    portsAskedBy(from, objects)
      .filter(({ port, of }) => of.length === 0 || of.some((one) => !portsOf(one).includes(port)))
      .map(({ port }) => `${from.kind} ${from.metadata.name}: nothing has its port ${port}`),
  )
}

interface AskedPort {
  port: string | number
  of: KubernetesObject[]
}

function portsAskedBy(from: KubernetesObject, objects: KubernetesObject[]): AskedPort[] {
  const { kind, spec } = from
  const selected = selectedBy(from, objects) ?? []
  const ofSelected = (ports: (string | number)[]) => ports.map((port) => ({ port, of: selected }))
  if (kind === 'Service')
    return ofSelected(spec.ports.map(({ port, targetPort = port }: KubernetesObject) => targetPort))
  if (kind === 'ServiceMonitor') return ofSelected(spec.endpoints.map(({ port }: KubernetesObject) => port))
  // Ports of egress are those of somebody else.
  if (kind === 'NetworkPolicy') {
    const rules: KubernetesObject[] = spec.ingress ?? []
    return ofSelected(rules.flatMap(({ ports = [] }) => ports.map(({ port }: KubernetesObject) => port)))
  }
  if (kind !== 'Ingress') return []
  const paths = spec.rules.flatMap(({ http }: KubernetesObject) => http.paths)
  return paths.map(({ backend: { service } }: KubernetesObject) => ({
    port: service.port.name ?? service.port.number,
    of: objects.filter((one) => one.kind === 'Service' && one.metadata.name === service.name),
  }))
}

/** Names and numbers of the ports of a Service, or of the pod that an object is or makes. */
function portsOf(object: KubernetesObject): (string | number)[] {
  const pod = podOf(object)
  const ports: KubernetesObject[] = pod ? containersOf(pod).flatMap((one) => one.ports ?? []) : object.spec.ports
  return ports.flatMap(({ name, port, containerPort }) => [name, port ?? containerPort])
}
