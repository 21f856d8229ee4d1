import { describe, expect, test } from 'vitest'
import { findHelms, type KubernetesObject } from '../support/helm.ts'
import { checkObject } from '../support/kubernetes.ts'
import { containersOf, hardeningFaults, podOf, restrictedFaults } from '../support/pod-security.ts'
import { portFaults } from '../support/ports.ts'
import { hooksOf, podLabelsOf, referencesOf, selectedBy, weightOf } from '../support/references.ts'
import { GOOD } from './value-sets.ts'

/** What docs/kubernetes.md tells to make first, or what the values of a set name as existing. */
const PRE_EXISTING = [
  'Secret lobu-db',
  'Secret lobu-secrets',
  'Secret lobu-db-owner',
  'Secret registry-login',
  'Secret lobu-tls',
  'ServiceAccount migrator',
  'ServiceAccount default',
  'PersistentVolumeClaim old-disk',
]

const helms = await findHelms()
const nameOf = ({ kind, metadata }: KubernetesObject) => `${kind} ${metadata.name}`
const componentOf = (labels: Record<string, string> = {}) => labels['app.kubernetes.io/component']

describe.skipIf(helms.length === 0)('what the chart renders', () => {
  describe.each(Object.entries(GOOD))('with %s', (_, options) => {
    const rendered = helms[0]?.render(options)

    test('is what the schemas of Kubernetes and of the Prometheus operator ask for', async () => {
      const faults = await Promise.all((await rendered!).map(checkObject))
      expect(faults.flat()).toEqual([])
    })

    test('keeps to the restricted Pod Security standard, and to less than it allows', async () => {
      for (const object of await rendered!) {
        const pod = podOf(object)
        if (pod) expect([...restrictedFaults(pod), ...hardeningFaults(pod)], nameOf(object)).toEqual([])
      }
    })

    test('names nothing that is not there, and in a hook nothing that comes later', async () => {
      const objects = await rendered!
      const missing = objects.flatMap(referencesOf).filter(({ from, kind, name }) => {
        if (PRE_EXISTING.includes(`${kind} ${name}`)) return false
        const target = objects.find((object) => nameOf(object) === `${kind} ${name}`)
        return !target || !isThere({ target, from })
      })
      expect(missing.map(({ from, kind, name }) => `${nameOf(from)} -> ${kind} ${name}`)).toEqual([])
    })

    test('selects pods by labels that they have, and no pod of another component', async () => {
      const objects = await rendered!
      for (const object of objects) {
        const selected = selectedBy(object, objects)
        if (!selected) continue
        expect(selected.map(nameOf), nameOf(object)).toHaveLength(1)
        // A monitor selects a Service, which selects pods.
        const pods = selected.flatMap((one) => (one.kind === 'Service' ? selectedBy(one, objects)! : [one]))
        const own = componentOf(object.metadata.labels)
        if (!objects.some((one) => componentOf(podLabelsOf(one)) === own)) continue
        expect(
          pods.map((one) => componentOf(podLabelsOf(one))),
          nameOf(object),
        ).toEqual([own])
      }
    })

    test('asks for ports that the other end has', async () => {
      expect(portFaults(await rendered!)).toEqual([])
    })

    test('has each object once, in the namespace of the release', async () => {
      const objects = await rendered!
      expect(new Set(objects.map(nameOf)).size).toBe(objects.length)
      for (const { metadata } of objects) expect(metadata.namespace).toBe('lobu')
    })

    test('mounts what it declares, and serves the port that it is asked at', async () => {
      for (const object of await rendered!) {
        const pod = podOf(object)
        if (!pod) continue
        const volumes = (pod.volumes ?? []).map(({ name }: KubernetesObject) => name).sort()
        const mounts = containersOf(pod).flatMap(({ volumeMounts }) =>
          volumeMounts.map(({ name }: KubernetesObject) => name),
        )
        expect([...new Set(mounts)].sort(), nameOf(object)).toEqual(volumes)
        for (const { ports = [], livenessProbe, readinessProbe, startupProbe } of containersOf(pod)) {
          const named = ports.map(({ name }: KubernetesObject) => name)
          for (const probe of [livenessProbe, readinessProbe, startupProbe]) {
            if (probe) expect(named).toContain(probe.httpGet.port)
          }
        }
      }
    })
  })
})

/** Before the object that names it: a hook finds what was there before, and hooks of the same event of less weight. */
function isThere({ target, from }: { target: KubernetesObject; from: KubernetesObject }): boolean {
  const events = hooksOf(from)
  if (events.length === 0) return hooksOf(target).length === 0
  return events.every((event) => {
    if (hooksOf(target).length === 0) return event === 'test'
    return hooksOf(target).includes(event) && weightOf(target) < weightOf(from)
  })
}

describe('the checks themselves', () => {
  const pod = (more: object, context: object = {}) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'x' },
    spec: { containers: [{ name: 'a', image: 'a', securityContext: context }], ...more },
  })

  test('find a field that does not exist, a wrong type and a missing field', async () => {
    expect(await checkObject(pod({ hostNetwerk: true }))).toEqual(['Pod x: /spec/hostNetwerk does not exist'])
    expect(await checkObject(pod({ containers: [{ name: 'a', prots: [] }] }))).toEqual([
      'Pod x: /spec/containers/0/prots does not exist',
    ])
    expect((await checkObject(pod({ terminationGracePeriodSeconds: '5' }))).join()).toMatch(/must be integer/)
    expect((await checkObject(pod({ containers: [{}] }))).join()).toMatch(/name/)
    expect(await checkObject(pod({}))).toEqual([])
  })

  test('find what the restricted standard refuses', () => {
    expect(restrictedFaults(pod({}).spec)).toEqual([
      'a: allowPrivilegeEscalation',
      'a: runAsNonRoot',
      'a: seccompProfile',
      'a: capabilities.drop',
    ])
    expect(restrictedFaults(pod({ hostPID: true, volumes: [{ name: 'v', hostPath: {} }] }).spec)).toEqual(
      expect.arrayContaining(['hostPID', 'volume v is a hostPath']),
    )
  })

  test('find a port that the other end does not have', () => {
    const labels = { is: 'x' }
    const object = (kind: string, spec: object) => ({ kind, metadata: { name: 'x', labels }, spec })
    const ends = (asked: string, port = 'http') => [
      object('Pod', { containers: [{ ports: [{ name: port, containerPort: 80 }] }] }),
      object('Service', { selector: labels, ports: [{ name: port, port: 80, targetPort: asked }] }),
    ]
    const backend = (port: object) => ({ http: { paths: [{ backend: { service: { name: 'x', port } } }] } })
    const askers = (port: string) => [
      object('Ingress', { rules: [backend({ name: port }), backend({ number: 80 })] }),
      object('NetworkPolicy', { podSelector: { matchLabels: labels }, ingress: [{ ports: [{ port }] }] }),
      object('ServiceMonitor', { selector: { matchLabels: labels }, endpoints: [{ port }] }),
    ]
    const faultsOf = (kinds: string[]) => kinds.map((kind) => `${kind} x: nothing has its port web`)
    expect(portFaults([...ends('http'), ...askers('http')])).toEqual([])
    expect(portFaults([...ends('web'), ...askers('http')])).toEqual(faultsOf(['Service']))
    expect(portFaults([...ends('http'), ...askers('web')])).toEqual(
      faultsOf(['Ingress', 'NetworkPolicy', 'ServiceMonitor']),
    )
    expect(portFaults(askers('web'))).toHaveLength(4)
  })
})
