/** With what the chart is rendered to see each value: all switches on, each off where its neighbour is on, all off. */
export const RENDERS = ['everything', 'some', 'others', 'nothing'] as const
export type Render = (typeof RENDERS)[number]

/** What a value does to the objects of a release. Places are those of `tests/support/places.ts`. */
export interface Effect {
  /** Words and numbers that nothing else renders to. `true` for a switch. */
  value: unknown
  /** Where they must be found, and nowhere else. A pattern stands for one place or more. */
  at?: (string | RegExp)[]
  /** What is there with the value, and for a switch only with it. */
  makes?: (string | RegExp)[]
  /** What is not there with the value, and for a switch only without it. */
  unmakes?: string[]
  /** Where it is given; by default in `everything`. Elsewhere switches are off, and the rest is as the chart has it. */
  in?: readonly Render[]
}

const APP = 'Deployment whole-app spec.template.spec'
const JOB = 'Job whole-migrate spec.template.spec'
const TEST = 'Pod whole-test spec'
const app = `${APP}.containers[app]`
const job = `${JOB}.containers[migrate]`
const turn = `${TEST}.containers[turn]`
const each = (holders: string[], place: string) => holders.map((holder) => `${holder}.${place}`)

const urlFrom = (container: string) => `${container}.env[DATABASE_URL].valueFrom.secretKeyRef`
const directUrlFrom = (container: string) => `${container}.env[DATABASE_DIRECT_URL].valueFrom.secretKeyRef`

/** An entry of `from` or `to` that can be found again, and the place where it is found. */
const peers = (mark: string) => [{ podSelector: { matchLabels: { mark } } }]
const peersAt = (rule: string) => [`NetworkPolicy whole-app spec.${rule}.podSelector.matchLabels.mark`]
/** The policies of app, Job and test; the test's begins with the way to the app. */
const inEachPolicy = (rule: number, place: string) => [
  `NetworkPolicy whole-app spec.egress[${rule}].${place}`,
  `NetworkPolicy whole-migrate spec.egress[${rule}].${place}`,
  `NetworkPolicy whole-test spec.egress[${rule + 1}].${place}`,
]
const TO = 'to[0].podSelector.matchLabels.mark'

/** Each value of the chart by its key. */
export const EFFECTS: Record<string, Effect> = {
  // The names below begin with it.
  fullnameOverride: { value: 'whole', at: [/^Deployment whole-app metadata\.name$/, /./], in: RENDERS },
  secretName: {
    value: 'marked-secret',
    at: [
      `${app}.envFrom[0].secretRef.name`,
      'ServiceMonitor whole-app spec.endpoints[0].authorization.credentials.name',
    ],
  },
  'database.existingSecret': {
    value: 'marked-db',
    at: each([urlFrom(app), directUrlFrom(app), urlFrom(turn)], 'name'),
  },
  'database.existingSecretKey': { value: 'marked-url', at: each([urlFrom(app), urlFrom(turn)], 'key') },
  'database.directSecretKey': { value: 'marked-direct', at: each([directUrlFrom(app)], 'key') },

  'image.registry': { value: 'registry.example.com:5000', at: each([app, job, turn], 'image') },
  'image.repository': { value: 'marked/repository', at: each([app, job, turn], 'image') },
  // A digest wins over it.
  'image.tag': {
    value: 'marked-tag',
    at: [...each([app, job, turn], 'image'), /labels\.app\.kubernetes\.io\/version$/],
    in: ['some'],
  },
  'image.digest': { value: `sha256:${'d1'.repeat(32)}`, at: each([app, job, turn], 'image') },
  'image.pullPolicy': { value: 'Always', at: each([app, job, turn], 'imagePullPolicy') },
  'image.pullSecrets': {
    value: [{ name: 'marked-login' }],
    at: each([APP, JOB, TEST], 'imagePullSecrets[marked-login].name'),
  },

  'migrations.enabled': { value: true, makes: ['Job whole-migrate'], in: ['everything', 'some'] },
  'migrations.database.existingSecret': { value: 'marked-owner', at: [`${urlFrom(job)}.name`] },
  'migrations.database.existingSecretKey': { value: 'marked-migrate-url', at: [`${urlFrom(job)}.key`] },
  'migrations.deadlineSeconds': { value: 7211, at: ['Job whole-migrate spec.activeDeadlineSeconds'] },
  'migrations.backoffLimit': { value: 17, at: ['Job whole-migrate spec.backoffLimit'] },
  'migrations.serviceAccountName': { value: 'marked-migrator', at: [`${JOB}.serviceAccountName`] },
  'migrations.resources': {
    value: { requests: { cpu: '711m', memory: '712Mi' }, limits: { cpu: '713m', memory: '714Mi' } },
    at: ['requests.cpu', 'requests.memory', 'limits.cpu', 'limits.memory'].flatMap((place) =>
      each([job, turn], `resources.${place}`),
    ),
  },

  'app.replicaCount': { value: 7, at: ['Deployment whole-app spec.replicas'], in: ['some'] },
  'app.env': { value: { MARKED: 'marked-setting' }, at: each([app, job, turn], 'env[MARKED].value') },
  'app.files': {
    value: { 'marked.json': 'marked-text' },
    at: ['ConfigMap whole-app-files data.marked.json', 'ConfigMap whole-migrate-files data.marked.json'],
    makes: [
      ...each([APP, JOB, TEST], 'volumes[files].configMap'),
      ...each([app, job, turn], 'volumeMounts[files].mountPath'),
      'Deployment whole-app spec.template.metadata.annotations.checksum/files',
    ],
  },
  'app.resources': {
    value: { requests: { cpu: '721m', memory: '722Mi' }, limits: { cpu: '723m', memory: '724Mi' } },
    at: ['requests.cpu', 'requests.memory', 'limits.cpu', 'limits.memory'].map((place) => `${app}.resources.${place}`),
  },
  'app.preStopSleepSeconds': { value: 331, at: [`${app}.lifecycle.preStop.sleep.seconds`] },
  'app.autoscaling.enabled': {
    value: true,
    makes: ['HorizontalPodAutoscaler whole-app'],
    unmakes: ['Deployment whole-app spec.replicas'],
  },
  'app.autoscaling.minReplicas': { value: 611, at: ['HorizontalPodAutoscaler whole-app spec.minReplicas'] },
  'app.autoscaling.maxReplicas': { value: 613, at: ['HorizontalPodAutoscaler whole-app spec.maxReplicas'] },
  'app.autoscaling.targetCPUUtilizationPercentage': {
    value: 617,
    at: ['HorizontalPodAutoscaler whole-app spec.metrics[0].resource.target.averageUtilization'],
  },
  'app.persistence.enabled': {
    value: true,
    makes: [`${APP}.volumes[data].persistentVolumeClaim`],
    unmakes: [`${APP}.volumes[data].emptyDir`],
    in: ['everything', 'others'],
  },
  'app.persistence.existingClaim': {
    value: 'marked-claim',
    at: [`${APP}.volumes[data].persistentVolumeClaim.claimName`],
    unmakes: ['PersistentVolumeClaim whole-app'],
    in: ['others'],
  },
  'app.persistence.accessModes': {
    value: ['ReadWriteMany'],
    at: ['PersistentVolumeClaim whole-app spec.accessModes[0]'],
  },
  'app.persistence.storageClassName': {
    value: 'marked-class',
    at: ['PersistentVolumeClaim whole-app spec.storageClassName'],
  },
  'app.persistence.size': { value: '71Gi', at: ['PersistentVolumeClaim whole-app spec.resources.requests.storage'] },
  'app.serviceAccount.create': { value: true, makes: [/^ServiceAccount \S+$/], in: ['everything', 'others'] },
  'app.serviceAccount.name': {
    value: 'marked-account',
    at: ['ServiceAccount marked-account metadata.name', `${APP}.serviceAccountName`],
  },
  'app.serviceAccount.annotations': {
    value: { 'example.com/role': 'marked-role' },
    at: ['ServiceAccount marked-account metadata.annotations.example.com/role'],
  },
  'app.podAnnotations': {
    value: { 'example.com/team': 'marked-annotation' },
    at: ['Deployment whole-app spec.template.metadata.annotations.example.com/team'],
  },
  'app.podLabels': {
    value: { 'example.com/team': 'marked-label' },
    at: ['Deployment whole-app spec.template.metadata.labels.example.com/team'],
  },
  'app.nodeSelector': {
    value: { 'example.com/pool': 'marked-pool' },
    at: each([APP, JOB, TEST], 'nodeSelector.example.com/pool'),
  },
  'app.tolerations': { value: [{ key: 'marked-taint' }], at: each([APP, JOB, TEST], 'tolerations[0].key') },
  'app.affinity': {
    value: { podAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [{ topologyKey: 'marked-topology' }] } },
    at: [`${APP}.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey`],
  },
  'app.priorityClassName': { value: 'marked-priority', at: [`${APP}.priorityClassName`] },

  'service.type': { value: 'NodePort', at: ['Service whole-app spec.type'] },
  'service.annotations': {
    value: { 'example.com/scheme': 'marked-scheme' },
    at: ['Service whole-app metadata.annotations.example.com/scheme'],
  },
  'service.sessionAffinity': { value: 'ClientIP', at: ['Service whole-app spec.sessionAffinity'] },
  'service.sessionAffinityTimeoutSeconds': {
    value: 7311,
    at: ['Service whole-app spec.sessionAffinityConfig.clientIP.timeoutSeconds'],
  },

  'ingress.enabled': { value: true, makes: ['Ingress whole-app'], in: ['everything', 'others'] },
  'ingress.className': { value: 'marked-ingress', at: ['Ingress whole-app spec.ingressClassName'] },
  'ingress.hosts': {
    value: ['lobu.example.com'],
    at: ['Ingress whole-app spec.rules[0].host', `${app}.env[PUBLIC_WEB_URL].value`],
    in: ['everything', 'others'],
  },
  'ingress.tls': {
    value: [{ secretName: 'marked-tls', hosts: ['tls.example.com'] }],
    at: ['Ingress whole-app spec.tls[0].secretName', 'Ingress whole-app spec.tls[0].hosts[0]'],
  },
  'ingress.annotations': {
    value: { 'example.com/issuer': 'marked-issuer' },
    at: ['Ingress whole-app metadata.annotations.example.com/issuer'],
  },

  'networkPolicy.enabled': {
    value: true,
    makes: ['NetworkPolicy whole-app', 'NetworkPolicy whole-test'],
    in: ['everything', 'some'],
  },
  'networkPolicy.from': { value: peers('marked-from'), at: peersAt('ingress[0].from[1]') },
  'networkPolicy.databasePorts': { value: [7432], at: inEachPolicy(1, 'ports[0].port') },
  'networkPolicy.databaseTo': { value: peers('marked-database-to'), at: inEachPolicy(1, TO) },
  'networkPolicy.dnsTo': { value: peers('marked-dns-to'), at: inEachPolicy(0, TO) },
  'networkPolicy.httpsPorts': { value: [7443], at: ['NetworkPolicy whole-app spec.egress[2].ports[0].port'] },
  'networkPolicy.httpsTo': { value: peers('marked-https-to'), at: peersAt('egress[2].to[0]') },
  'networkPolicy.extraEgress': {
    value: [{ ports: [{ port: 7587 }] }],
    at: ['NetworkPolicy whole-app spec.egress[3].ports[0].port'],
  },

  'podDisruptionBudget.enabled': { value: true, makes: ['PodDisruptionBudget whole-app'] },

  'metrics.enabled': {
    value: true,
    makes: ['Service whole-app-metrics', `${app}.ports[metrics].containerPort`, `${app}.env[METRICS_PORT].value`],
    in: ['everything', 'some', 'others'],
  },
  'metrics.from': { value: peers('marked-metrics-from'), at: peersAt('ingress[1].from[0]') },
  'metrics.serviceMonitor.enabled': { value: true, makes: ['ServiceMonitor whole-app'], in: ['everything', 'some'] },
  'metrics.serviceMonitor.interval': { value: '37s', at: ['ServiceMonitor whole-app spec.endpoints[0].interval'] },
  'metrics.serviceMonitor.labels': {
    value: { 'example.com/prometheus': 'marked-monitor' },
    at: ['ServiceMonitor whole-app metadata.labels.example.com/prometheus'],
  },
  'metrics.serviceMonitor.tokenSecretKey': {
    value: 'METRICS_AUTH_TOKEN',
    at: ['ServiceMonitor whole-app spec.endpoints[0].authorization.credentials.key'],
  },
  'metrics.prometheusRule.enabled': { value: true, makes: ['PrometheusRule whole-app'], in: ['everything', 'others'] },
  'metrics.prometheusRule.labels': {
    value: { 'example.com/prometheus': 'marked-rule' },
    at: ['PrometheusRule whole-app metadata.labels.example.com/prometheus'],
  },
  'metrics.prometheusRule.runbookBaseUrl': {
    value: 'https://runbooks.example.com/lobu',
    at: [/^PrometheusRule whole-app spec\.groups\[whole-app\]\.rules\[\d+\]\.annotations\.runbook_url$/],
  },
}
