import { beforeAll, describe, expect, test } from 'vitest'
import { parseConfig } from '../../src/config.ts'
import { CHART, findHelms, type Helm, type KubernetesObject, type RenderOptions } from '../support/helm.ts'
import { BAD, GOOD, PAGE, PAGE_REPLICAS } from './value-sets.ts'

const helms = await findHelms()

test.skipIf(process.platform !== 'linux' || process.arch !== 'x64')('there is a helm 4 and a helm 3', () => {
  expect(helms.map(({ version }) => version.split('.')[0]).sort()).toEqual(['3', '4'])
})

describe.skipIf(helms.length === 0)('the chart', () => {
  let helm: Helm
  beforeAll(() => {
    helm = helms[0]!
  })

  const one = (objects: KubernetesObject[], kind: string, name: string): KubernetesObject => {
    const found = objects.filter((object) => object.kind === kind && object.metadata.name === name)
    expect(found, `${kind} ${name}`).toHaveLength(1)
    return found[0]
  }
  const names = (objects: KubernetesObject[]) => objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`).sort()
  const renderApp = async (options: RenderOptions = {}) => one(await helm.render(options), 'Deployment', 'lobu-app')
  const podOf = (deployment: KubernetesObject) => deployment.spec.template.spec
  const envOf = (pod: KubernetesObject): Record<string, KubernetesObject> =>
    Object.fromEntries(pod.containers[0].env.map(({ name, ...rest }: KubernetesObject) => [name, rest.value ?? rest]))
  const appEnv = async (options: RenderOptions) => envOf(podOf(await renderApp(options)))
  const portsOf = (rules: KubernetesObject[]) =>
    rules.map(({ ports }) => ports.map(({ port }: KubernetesObject) => port))
  const podsOf = (component: string) => ({
    podSelector: {
      matchLabels: {
        'app.kubernetes.io/name': 'lobu',
        'app.kubernetes.io/instance': 'lobu',
        'app.kubernetes.io/component': component,
      },
    },
  })

  test.each(helms.map((one) => [one.version, one] as const))('helm %s finds no fault in it', async (_, each) => {
    for (const files of [[], ['-f', PAGE]]) {
      const { code, stdout, stderr } = await each.run(['lint', '--strict', CHART, ...files])
      expect(stdout + stderr).toMatch(/0 chart\(s\) failed/)
      expect(code).toBe(0)
    }
  })

  test.each(Object.entries(GOOD))('%s: every helm renders the same', async (_, options) => {
    const [first, ...others] = await Promise.all(helms.map((each) => each.render(options)))
    expect(first!.length).toBeGreaterThan(0)
    for (const other of others) expect(other).toEqual(first)
  })

  describe.each(helms.map((each) => [each.version, each] as const))('helm %s refuses', (_, each) => {
    test.each(Object.entries(BAD))('%s', async (_name, { values, schema, sentence, kubeVersion }) => {
      const options = { values, ...(kubeVersion === undefined ? {} : { kubeVersion }) }
      await expect(each.render(options)).rejects.toThrow(schema ?? sentence!)
      if (sentence) await expect(each.render({ ...options, skipSchema: true })).rejects.toThrow(sentence)
    })
  })

  test('a secret that is refused is not repeated', async () => {
    await expect(helm.render(BAD['the database among the values']!)).rejects.toThrow(/^(?![\s\S]*hunter2)/)
  })

  test("the page's file deploys what the page says, under its names", async () => {
    const objects = await helm.render({ files: [PAGE] })
    expect(names(objects)).toEqual([
      'Deployment lobu-app',
      'Ingress lobu-app',
      'Job lobu-migrate',
      'NetworkPolicy lobu-app',
      'NetworkPolicy lobu-migrate',
      'NetworkPolicy lobu-test',
      'Pod lobu-test',
      'Service lobu-app',
      'ServiceAccount lobu-app',
    ])
    const app = one(objects, 'Deployment', 'lobu-app')
    expect(envOf(podOf(app))).toEqual({
      NODE_ENV: 'production',
      WORKER_ALLOWED_DOMAINS: '',
      PUBLIC_WEB_URL: 'https://lobu.example.com',
      SKIP_MIGRATIONS: '1',
      PORT: '8787',
      LOBU_DATA_DIR: '/var/lib/lobu',
      DATABASE_URL: { valueFrom: { secretKeyRef: { name: 'lobu-db', key: 'uri' } } },
    })
    expect(podOf(app).containers[0].envFrom).toEqual([{ secretRef: { name: 'lobu-secrets' } }])
    const [rule] = one(objects, 'Ingress', 'lobu-app').spec.rules
    expect(rule.host).toBe('lobu.example.com')
    expect(rule.http.paths[0].backend.service).toEqual({ name: 'lobu-app', port: { name: 'http' } })
    expect(one(objects, 'Ingress', 'lobu-app').spec.ingressClassName).toBe('nginx')
    for (const { metadata } of objects) expect(metadata.labels['app.kubernetes.io/instance']).toBe('lobu')
  })

  test('three replicas as on the page are pinned where they are reached directly, spread, and evicted one by one', async () => {
    const objects = await helm.render({ files: [PAGE, PAGE_REPLICAS] })
    const service = one(objects, 'Service', 'lobu-app').spec
    expect(service.sessionAffinity).toBe('ClientIP')
    expect(service.sessionAffinityConfig.clientIP.timeoutSeconds).toBe(10_800)
    expect(service.ports).toEqual([{ name: 'http', port: 8787, targetPort: 'http' }])
    const app = one(objects, 'Deployment', 'lobu-app')
    expect(app.spec.replicas).toBe(3)
    const spread = podOf(app).topologySpreadConstraints.map(({ topologyKey }: KubernetesObject) => topologyKey)
    expect(spread).toEqual(['kubernetes.io/hostname', 'topology.kubernetes.io/zone'])
    expect(one(objects, 'PodDisruptionBudget', 'lobu-app').spec.maxUnavailable).toBe(1)
  })

  test('one replica has neither a budget, which has nothing to say of a single pod, nor anything to spread', async () => {
    const objects = await helm.render()
    expect(names(objects)).not.toContain('PodDisruptionBudget lobu-app')
    expect(podOf(one(objects, 'Deployment', 'lobu-app')).topologySpreadConstraints).toBeUndefined()
  })

  test('a release of another name holds the name of the product too', async () => {
    expect(names(await helm.render({ release: 'agents' }))).toContain('Deployment agents-lobu-app')
    expect(names(await helm.render({ release: 'lobu-staging' }))).toContain('Service lobu-staging-app')
    expect(names(await helm.render({ values: { fullnameOverride: 'chat' } }))).toContain('Deployment chat-app')
  })

  test('every value of the environment is a string, as it was written', async () => {
    const env = {
      NODE_ENV: null,
      WORKER_ALLOWED_DOMAINS: '',
      WORKERS_MAX: 40,
      STREAM_BUFFER_BYTES_MAX: 104_857_600,
      STREAM_PING_SECONDS: 0.5,
      LOG_PRETTY: false,
      OIDC_NAME: '0123',
      MAIL_FROM: '"Lobu" <lobu@example.com>: {{ hello }}',
      GREETING: 'yes',
    }
    const rendered = await appEnv({ values: { app: { env } } })
    expect(rendered).toMatchObject({
      WORKER_ALLOWED_DOMAINS: '',
      WORKERS_MAX: '40',
      STREAM_BUFFER_BYTES_MAX: '104857600',
      STREAM_PING_SECONDS: '0.5',
      LOG_PRETTY: 'false',
      OIDC_NAME: '0123',
      MAIL_FROM: '"Lobu" <lobu@example.com>: {{ hello }}',
      GREETING: 'yes',
    })
    expect(rendered).not.toHaveProperty('NODE_ENV')
  })

  test('with the Job the pods skip migrations by themselves, and without it they migrate', async () => {
    expect((await appEnv({})).SKIP_MIGRATIONS).toBe('1')
    expect((await appEnv({ values: { app: { env: { SKIP_MIGRATIONS: '' } } } })).SKIP_MIGRATIONS).toBe('1')
    const alone = await helm.render({ values: { migrations: { enabled: false } } })
    expect(envOf(podOf(one(alone, 'Deployment', 'lobu-app'))).SKIP_MIGRATIONS).toBe('')
    expect(names(alone)).not.toContain('Job lobu-migrate')
    // Long enough to make the whole schema before anything answers.
    const patience = async (options: RenderOptions) => {
      const { periodSeconds, failureThreshold } = podOf(await renderApp(options)).containers[0].startupProbe
      return periodSeconds * failureThreshold
    }
    expect(await patience({ values: { migrations: { enabled: false } } })).toBeGreaterThanOrEqual(900)
    expect(await patience({})).toBeLessThan(300)
  })

  test('the Job runs before the release, ends in time, stays when it failed, and gets the database and no secret', async () => {
    const job = one(await helm.render({ files: [PAGE] }), 'Job', 'lobu-migrate')
    expect(job.metadata.annotations['helm.sh/hook']).toBe('pre-install,pre-upgrade')
    expect(job.metadata.annotations['helm.sh/hook-delete-policy']).toBe('before-hook-creation,hook-succeeded')
    // Helm itself waits for five minutes.
    expect(job.spec.activeDeadlineSeconds).toBeLessThan(300)
    // The Job's deadline removes the pod and its log, the pod's own leaves both.
    expect(podOf(job).activeDeadlineSeconds).toBeLessThan(job.spec.activeDeadlineSeconds)
    expect(job.spec.backoffLimit).toBe(3)
    expect(podOf(job).containers[0].args).toEqual(['migrate'])
    expect(podOf(job).containers[0].envFrom).toBeUndefined()
    expect(envOf(podOf(job))).toEqual({
      NODE_ENV: 'production',
      SKIP_MIGRATIONS: '1',
      WORKER_ALLOWED_DOMAINS: '',
      PUBLIC_WEB_URL: 'https://lobu.example.com',
      DATABASE_URL: { valueFrom: { secretKeyRef: { name: 'lobu-db', key: 'uri' } } },
    })
  })

  test('the Job takes its own database where one is named, and goes around a pooler where not', async () => {
    const jobEnv = async (values: object) => envOf(podOf(one(await helm.render({ values }), 'Job', 'lobu-migrate')))
    const secret = (name: string, key: string) => ({ valueFrom: { secretKeyRef: { name, key } } })
    const database = { existingSecret: 'db', existingSecretKey: 'pooled', directSecretKey: 'direct' }
    const plain = await jobEnv({ database })
    expect([plain.DATABASE_URL, plain.DATABASE_DIRECT_URL]).toEqual([secret('db', 'pooled'), secret('db', 'direct')])
    const own = await jobEnv({
      database,
      migrations: { database: { existingSecret: 'owner', existingSecretKey: 'url' } },
    })
    expect([own.DATABASE_URL, own.DATABASE_DIRECT_URL]).toEqual([secret('owner', 'url'), undefined])
  })

  test('the public URL is the first real host of the ingress, unless it is given', async () => {
    const ingress = { enabled: true, hosts: ['*.example.com', 'chat.example.com'] }
    expect((await appEnv({ values: { ingress } })).PUBLIC_WEB_URL).toBe('https://chat.example.com')
    const env = { PUBLIC_WEB_URL: 'https://other.example.com/lobu' }
    expect((await appEnv({ values: { ingress, app: { env } } })).PUBLIC_WEB_URL).toBe(env.PUBLIC_WEB_URL)
    expect(await appEnv({})).not.toHaveProperty('PUBLIC_WEB_URL')
  })

  test('a pod is left longer than the gateway takes to stop', async () => {
    for (const env of [
      {},
      { SHUTDOWN_GRACE_SECONDS: '' },
      { SHUTDOWN_GRACE_SECONDS: 600, SHUTDOWN_WAIT_SECONDS: 0 },
      { SHUTDOWN_WAIT_SECONDS: '30.5' },
      { SHUTDOWN_GRACE_SECONDS: '0' },
    ]) {
      const deployment = await renderApp({ values: { app: { env, preStopSleepSeconds: 7 } } })
      const { terminationGracePeriodSeconds, containers } = podOf(deployment)
      expect(containers[0].lifecycle.preStop).toEqual({ sleep: { seconds: 7 } })
      expect(terminationGracePeriodSeconds).toBeGreaterThanOrEqual(7 + stopSeconds({ ...envOf(podOf(deployment)) }) + 5)
    }
    const { lifecycle, terminationGracePeriodSeconds } = podOf(await renderApp())
    expect(lifecycle ?? terminationGracePeriodSeconds).toBe(60)
  })

  test('a volume of one pod is handed over, never shared', async () => {
    const values = { app: { persistence: { enabled: true, size: '5Gi' } } }
    const objects = await helm.render({ values })
    const app = one(objects, 'Deployment', 'lobu-app')
    expect(app.spec.strategy).toEqual({ type: 'Recreate' })
    expect(one(objects, 'PersistentVolumeClaim', 'lobu-app').spec.resources.requests.storage).toBe('5Gi')
    expect(podOf(app).volumes[0].persistentVolumeClaim.claimName).toBe('lobu-app')
    const shared = await renderApp(GOOD['a shared volume']!)
    expect(shared.spec.strategy.type).toBe('RollingUpdate')
  })

  test('an update starts a new pod before it stops an old one', async () => {
    expect((await renderApp()).spec.strategy.rollingUpdate).toEqual({ maxUnavailable: 0, maxSurge: 1 })
  })

  test('the number of pods is left to the autoscaler where there is one', async () => {
    const objects = await helm.render(GOOD['an autoscaler and monitoring']!)
    expect(one(objects, 'Deployment', 'lobu-app').spec).not.toHaveProperty('replicas')
    expect(one(objects, 'HorizontalPodAutoscaler', 'lobu-app').spec.scaleTargetRef.name).toBe('lobu-app')
    expect(names(objects)).toContain('PodDisruptionBudget lobu-app')
    const from1 = { app: { autoscaling: { enabled: true, minReplicas: 1 } } }
    expect(names(await helm.render({ values: from1 }))).toContain('PodDisruptionBudget lobu-app')
  })

  test('pods restart when a file of the chart changes, and only then', async () => {
    const pod = async (files: object, release = {}) =>
      JSON.stringify((await renderApp({ values: { app: { files } }, ...release })).spec.template)
    const before = await pod({ prices: '{}' })
    expect(await pod({ prices: '{}' })).toBe(before)
    expect(await pod({ prices: '{"a": 1}' })).not.toBe(before)
  })

  test('the image is that of the version of the chart, or another by tag, by digest and of any registry', async () => {
    const image = async (values: object) => podOf(await renderApp({ values: { image: values } })).containers[0].image
    const { stdout } = await helm.run(['show', 'chart', CHART])
    const version = /^appVersion: "?([^"\n]+)/m.exec(stdout)![1]
    expect(await image({})).toBe(`ghcr.io/lobu-ai/lobu:${version}`)
    expect(await image({ tag: '1.2.3' })).toBe('ghcr.io/lobu-ai/lobu:1.2.3')
    const digest = `sha256:${'ab'.repeat(32)}`
    expect(await image({ tag: '1.2.3', digest, registry: 'r.example.com:5000' })).toBe(
      `r.example.com:5000/lobu-ai/lobu@${digest}`,
    )
    expect(await image({ registry: '', repository: 'lobu', tag: 'dev' })).toBe('lobu:dev')
  })

  test('nginx passes streams on as they come, and one can change that', async () => {
    const ingress = { enabled: true, className: 'nginx', hosts: ['a.example.com'] }
    const key = (name: string) => `nginx.ingress.kubernetes.io/${name}`
    const annotations = async (more: object) =>
      one(await helm.render({ values: { ingress: { ...ingress, ...more } } }), 'Ingress', 'lobu-app').metadata
        .annotations
    expect(await annotations({})).toEqual({
      [key('proxy-buffering')]: 'off',
      [key('proxy-read-timeout')]: '3600',
      [key('proxy-send-timeout')]: '3600',
      [key('proxy-body-size')]: '110m',
    })
    const changed = await annotations({
      annotations: { [key('proxy-read-timeout')]: 60, 'cert-manager.io/issuer': 'a' },
    })
    expect(changed).toMatchObject({ [key('proxy-read-timeout')]: '60', 'cert-manager.io/issuer': 'a' })
  })

  test('the network policy names the database, name servers and https, and keeps clouds’ metadata out', async () => {
    const policy = one(await helm.render(), 'NetworkPolicy', 'lobu-app').spec
    expect(policy.policyTypes).toEqual(['Ingress', 'Egress'])
    expect(policy.ingress).toEqual([
      { ports: [{ port: 'http', protocol: 'TCP' }], from: [podsOf('test'), { namespaceSelector: {} }] },
    ])
    expect(portsOf(policy.egress)).toEqual([[53, 53, 5353, 5353], [5432], [443]])
    expect(JSON.stringify(policy.egress[2].to)).toContain('169.254.0.0/16')
  })

  test('the Job and the test reach what they need also where a namespace denies the rest, and the test the app', async () => {
    const objects = await helm.render({ values: { networkPolicy: { from: [{ ipBlock: { cidr: '10.0.0.0/8' } }] } } })
    const [job, turn] = ['lobu-migrate', 'lobu-test'].map((name) => one(objects, 'NetworkPolicy', name))
    expect(job!.metadata.annotations['helm.sh/hook']).toBe('pre-install,pre-upgrade')
    expect(portsOf(job!.spec.egress)).toEqual([[53, 53, 5353, 5353], [5432]])
    expect(turn!.metadata.annotations['helm.sh/hook']).toBe('test')
    expect(portsOf(turn!.spec.egress)).toEqual([['http'], [53, 53, 5353, 5353], [5432]])
    expect(turn!.spec.egress[0].to).toEqual([podsOf('app')])
    expect(one(objects, 'NetworkPolicy', 'lobu-app').spec.ingress[0].from[0]).toEqual(podsOf('test'))
  })

  test('who names nobody lets nobody in or out, where Kubernetes would take that for everybody', async () => {
    const objects = await helm.render(GOOD['networks that nobody is in']!)
    const { ingress, egress } = one(objects, 'NetworkPolicy', 'lobu-app').spec
    expect(ingress).toEqual([{ ports: [{ port: 'http', protocol: 'TCP' }], from: [podsOf('test')] }])
    expect(portsOf(egress)).toEqual([[5432]])
  })

  test('metrics have a port and a Service of their own, which no ingress leads to', async () => {
    const objects = await helm.render(GOOD['several hosts, certificates and annotations']!)
    expect(envOf(podOf(one(objects, 'Deployment', 'lobu-app'))).METRICS_PORT).toBe('9464')
    expect(one(objects, 'Service', 'lobu-app').spec.ports).toHaveLength(1)
    expect(one(objects, 'Service', 'lobu-app-metrics').spec.clusterIP).toBe('None')
    const { endpoints } = one(objects, 'ServiceMonitor', 'lobu-app').spec
    expect(endpoints[0]).toMatchObject({
      port: 'metrics',
      authorization: { credentials: { key: 'METRICS_AUTH_TOKEN' } },
    })
    expect(one(objects, 'NetworkPolicy', 'lobu-app').spec.ingress[1].ports).toEqual([
      { port: 'metrics', protocol: 'TCP' },
    ])
    expect(names(await helm.render())).not.toContain('Service lobu-app-metrics')
  })

  test('helm test takes a turn at the Service with the database’s Secret alone', async () => {
    const pod = one(await helm.render({ files: [PAGE] }), 'Pod', 'lobu-test')
    expect(pod.metadata.annotations['helm.sh/hook']).toBe('test')
    expect(pod.spec.containers[0].args).toEqual(['smoke', 'http://lobu-app:8787'])
    expect(pod.spec.containers[0].envFrom).toBeUndefined()
  })
})

/** How long the gateway takes at most with this environment, by its own account. */
function stopSeconds(env: Record<string, KubernetesObject>): number {
  const strings = Object.entries(env).filter(([, value]) => typeof value === 'string')
  const secret = 'k3Jf9sLq2-Zx81mPwq07RtYuVbNcEdGh-45'
  const given = { JWT_SECRET: secret, BETTER_AUTH_SECRET: secret, DATABASE_URL: 'postgres://db/lobu' }
  return parseConfig({ ...Object.fromEntries(strings), ...given }).shutdown.totalMs / 1000
}
