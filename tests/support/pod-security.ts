import type { KubernetesObject } from './helm.ts'

/** The pod that an object makes or is, or undefined. */
export function podOf(object: KubernetesObject): KubernetesObject | undefined {
  if (object.kind === 'Pod') return object.spec
  return object.spec?.template?.spec
}

export const containersOf = (pod: KubernetesObject): KubernetesObject[] => [
  ...(pod.initContainers ?? []),
  ...pod.containers,
]

/** Kinds of volumes that the standard allows. */
const VOLUMES = [
  'configMap',
  'csi',
  'downwardAPI',
  'emptyDir',
  'ephemeral',
  'persistentVolumeClaim',
  'projected',
  'secret',
]

/**
 * What the `restricted` profile of the Pod Security Standards would refuse in a pod, a sentence each:
 * https://kubernetes.io/docs/concepts/security/pod-security-standards/
 */
export function restrictedFaults(pod: KubernetesObject): string[] {
  const faults: string[] = []
  const refuse = (wrong: boolean, fault: string) => void (wrong && faults.push(fault))
  for (const name of ['hostNetwork', 'hostPID', 'hostIPC']) refuse(pod[name] === true, name)
  const own = pod.securityContext ?? {}
  refuse((own.sysctls ?? []).length > 0, 'sysctls')
  for (const volume of pod.volumes ?? []) {
    const kind = Object.keys(volume).find((key) => key !== 'name')
    refuse(!VOLUMES.includes(kind!), `volume ${volume.name} is a ${kind}`)
  }
  for (const container of containersOf(pod)) {
    const context = container.securityContext ?? {}
    const either = (field: string) => context[field] ?? own[field]
    const complain = (wrong: boolean, fault: string) => refuse(wrong, `${container.name}: ${fault}`)
    complain(context.privileged === true, 'privileged')
    complain(context.allowPrivilegeEscalation !== false, 'allowPrivilegeEscalation')
    complain(either('runAsNonRoot') !== true, 'runAsNonRoot')
    complain(either('runAsUser') === 0, 'runAsUser')
    complain(!['RuntimeDefault', 'Localhost'].includes(either('seccompProfile')?.type), 'seccompProfile')
    complain(!(context.capabilities?.drop ?? []).includes('ALL'), 'capabilities.drop')
    const added = (context.capabilities?.add ?? []).filter((name: string) => name !== 'NET_BIND_SERVICE')
    complain(added.length > 0, 'capabilities.add')
    complain(
      (container.ports ?? []).some(({ hostPort }: KubernetesObject) => hostPort),
      'hostPort',
    )
    complain(context.procMount !== undefined && context.procMount !== 'Default', 'procMount')
  }
  return faults
}

/** Further than the standard: what we want of each of our pods. */
export function hardeningFaults(pod: KubernetesObject): string[] {
  const faults: string[] = []
  const refuse = (wrong: boolean, fault: string) => void (wrong && faults.push(fault))
  refuse(pod.automountServiceAccountToken !== false, 'has a token for Kubernetes')
  refuse(pod.enableServiceLinks !== false, 'has the addresses of its neighbours in its environment')
  // By name the kubelet cannot tell that a user is not root.
  refuse(!(pod.securityContext?.runAsUser > 0), 'has no numeric user')
  for (const container of containersOf(pod)) {
    const { name, resources = {}, securityContext = {}, volumeMounts = [] } = container
    refuse(securityContext.readOnlyRootFilesystem !== true, `${name} can write to its image`)
    refuse(!volumeMounts.some(({ mountPath }: KubernetesObject) => mountPath === '/tmp'), `${name} has no /tmp`)
    for (const need of ['requests', 'limits']) refuse(!resources[need]?.memory, `${name} has no memory ${need}`)
    refuse(container.command !== undefined, `${name} replaces the init process of the image`)
    const text = JSON.stringify([
      container.livenessProbe,
      container.readinessProbe,
      container.startupProbe,
      container.lifecycle,
    ])
    refuse(/"exec"/.test(text), `${name} needs a program to be looked at or stopped`)
  }
  return faults
}
