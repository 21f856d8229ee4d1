import { fileURLToPath } from 'node:url'

const fixture = (name: string) => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))

export const PAGE = fixture('page-values.yaml')
export const PAGE_REPLICAS = fixture('page-replicas.yaml')

export interface ValueSet {
  files?: string[]
  values?: object
}

const monitored = {
  enabled: true,
  serviceMonitor: { enabled: true, labels: { release: 'prometheus' } },
  prometheusRule: { enabled: true, labels: { release: 'prometheus' } },
}

/** Values that must render, and what they render to must hold in a strict cluster. */
export const GOOD: Record<string, ValueSet> = {
  'no values at all': {},
  "the page's file": { files: [PAGE] },
  "the page's file and its replicas": { files: [PAGE, PAGE_REPLICAS] },
  'three replicas without affinity': { values: { app: { replicaCount: 3 } } },
  'no replica': { values: { app: { replicaCount: 0 } } },
  'migrations in the pods': { values: { migrations: { enabled: false } } },
  'migrations as another user': {
    values: {
      database: { directSecretKey: 'direct' },
      migrations: {
        database: { existingSecret: 'lobu-db-owner', existingSecretKey: 'url' },
        serviceAccountName: 'migrator',
      },
    },
  },
  'a volume of one pod': { values: { app: { persistence: { enabled: true, storageClassName: 'fast' } } } },
  'a shared volume': {
    values: { app: { replicaCount: 2, persistence: { enabled: true, accessModes: ['ReadWriteMany'] } } },
  },
  'a volume that is there': { values: { app: { persistence: { enabled: true, existingClaim: 'old-disk' } } } },
  'an autoscaler and monitoring': { values: { app: { autoscaling: { enabled: true } }, metrics: monitored } },
  'a pooler': { values: { database: { directSecretKey: 'direct' }, networkPolicy: { databasePorts: [5432, 6432] } } },
  'files, an environment of all kinds, and a pause before the stop': {
    values: {
      app: {
        preStopSleepSeconds: 5,
        env: {
          WORKERS_MAX: 40,
          LOG_PRETTY: false,
          SIGN_UP: 'open',
          OIDC_NAME: '',
          MODEL_PRICES_FILE: '/etc/lobu/prices',
        },
        files: { prices: '{"a": "{{ not a template }}"}\n', 'ca.crt': '-----BEGIN CERTIFICATE-----\n' },
      },
    },
  },
  'everything that can be said of pods': {
    values: {
      image: {
        registry: 'registry.example.com:5000',
        repository: 'mirror/lobu',
        digest: `sha256:${'0123456789abcdef'.repeat(4)}`,
        pullPolicy: 'Always',
        pullSecrets: [{ name: 'registry-login' }],
      },
      app: {
        replicaCount: 2,
        podAnnotations: { 'example.com/team': 'agents' },
        podLabels: { 'example.com/team': 'agents' },
        nodeSelector: { 'kubernetes.io/arch': 'amd64' },
        tolerations: [{ key: 'agents', operator: 'Exists', effect: 'NoSchedule' }],
        affinity: { nodeAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [] } },
        priorityClassName: 'important',
        serviceAccount: { annotations: { 'example.com/role': 'agents' } },
      },
      service: { type: 'LoadBalancer', annotations: { 'example.com/internal': 'true' } },
    },
  },
  'several hosts, certificates and annotations': {
    values: {
      ingress: {
        enabled: true,
        hosts: ['*.lobu.example.com', 'lobu.example.com'],
        tls: [{ secretName: 'lobu-tls', hosts: ['lobu.example.com'] }],
        annotations: { 'nginx.ingress.kubernetes.io/proxy-body-size': '20m', 'example.com/number': 42 },
      },
      metrics: { ...monitored, serviceMonitor: { enabled: true, tokenSecretKey: 'METRICS_AUTH_TOKEN' } },
    },
  },
  'a part of another chart': { values: { global: { imageRegistry: 'registry.example.com' } } },
  'networks that nobody is in': {
    values: {
      networkPolicy: { from: [], dnsTo: [], httpsTo: [] },
      metrics: { enabled: true, from: [] },
    },
  },
  'nothing but the app': {
    values: {
      migrations: { enabled: false },
      networkPolicy: { enabled: false },
      podDisruptionBudget: { enabled: false },
      app: { replicaCount: 2, serviceAccount: { create: false } },
    },
  },
}

export interface BadValues {
  values: object
  /** What the schema says about it, in either helm's words; null where only the templates can tell. */
  schema: RegExp | null
  /** What the templates say where the schema was left out; null where only the schema can tell. */
  sentence: RegExp | null
  kubeVersion?: string
}

const unknown = (path: string) => new RegExp(path)

/** Values that must not render. */
export const BAD: Record<string, BadValues> = {
  'an ingress without hosts': {
    values: { ingress: { enabled: true } },
    schema: /ingress.hosts.*(at least 1|want 1)/,
    sentence: /ingress\.hosts: name at least one host/,
  },
  'replicas that would share a volume of one pod': {
    values: { app: { replicaCount: 2, persistence: { enabled: true } } },
    schema: /app.replicaCount.*1/,
    sentence: /app\.persistence: more than one replica cannot share a volume that is not ReadWriteMany/,
  },
  'the same by an autoscaler': {
    values: { app: { autoscaling: { enabled: true }, persistence: { enabled: true, existingClaim: 'disk' } } },
    schema: /app.autoscaling.maxReplicas.*1/,
    sentence: /app\.persistence: more than one replica/,
  },
  'an autoscaler whose most is less than its fewest': {
    values: { app: { autoscaling: { enabled: true, minReplicas: 5, maxReplicas: 3 } } },
    schema: null,
    sentence: /app\.autoscaling\.maxReplicas: must not be less than minReplicas/,
  },
  'no Secret for the app': {
    values: { secretName: '' },
    schema: /secretName/,
    sentence: /secretName: name it/,
  },
  'no Secret for the database': {
    values: { database: { existingSecret: '' } },
    schema: /database.existingSecret/,
    sentence: /database\.existingSecret: name it/,
  },
  'a secret among the values': {
    values: { app: { env: { JWT_SECRET: 'hunter2' } } },
    schema: null,
    sentence: /app\.env\.JWT_SECRET: a secret has no place in values/,
  },
  'the database among the values': {
    values: { app: { env: { DATABASE_URL: 'postgres://u:hunter2@db/lobu' } } },
    schema: null,
    sentence: /app\.env\.DATABASE_URL: a secret has no place in values/,
  },
  'another port': {
    values: { app: { env: { PORT: '80' } } },
    schema: null,
    sentence: /app\.env\.PORT: the chart sets it/,
  },
  'a sleep before the stop that this Kubernetes does not know': {
    values: { app: { preStopSleepSeconds: 5 } },
    kubeVersion: '1.29.3',
    schema: null,
    sentence: /app\.preStopSleepSeconds: needs Kubernetes 1\.30/,
  },
  'a monitor of nothing': {
    values: { metrics: { serviceMonitor: { enabled: true } } },
    schema: null,
    sentence: /metrics\.serviceMonitor: there is nothing to collect/,
  },
  'alerts about nothing': {
    values: { metrics: { prometheusRule: { enabled: true } } },
    schema: null,
    sentence: /metrics\.prometheusRule: there is nothing to collect/,
  },
  'a port of the metrics that nothing leads to': {
    values: { app: { env: { METRICS_PORT: '9000' } } },
    schema: null,
    sentence: /app\.env\.METRICS_PORT: set metrics\.enabled instead/,
  },
  'a digest that is none': {
    values: { image: { digest: 'latest' } },
    schema: /image.digest/,
    sentence: /image\.digest: must be sha256:/,
  },
  'a key at the top that does not exist': {
    values: { replicaCount: 3 },
    schema: unknown('replicaCount'),
    sentence: /replicaCount: there is no such value/,
  },
  'a key of the app that does not exist': {
    values: { app: { replicas: 3 } },
    schema: unknown('replicas'),
    sentence: /app\.replicas: there is no such value/,
  },
  'a key of the ingress that does not exist': {
    values: { ingress: { host: 'x' } },
    schema: unknown('host'),
    sentence: /ingress\.host: there is no such value/,
  },
  'hosts that are objects': {
    values: { ingress: { enabled: true, hosts: [{ host: 'lobu.example.com' }] } },
    schema: /ingress.hosts.0/,
    sentence: null,
  },
  'hosts with a scheme': {
    values: { ingress: { enabled: true, hosts: ['https://lobu.example.com'] } },
    schema: /ingress.hosts.0/,
    sentence: null,
  },
  'an affinity that does not exist': {
    values: { service: { sessionAffinity: 'Cookie' } },
    schema: /sessionAffinity/,
    sentence: null,
  },
  'replicas as text': { values: { app: { replicaCount: '3' } }, schema: /app.replicaCount/, sentence: null },
  'a grace that is no number': {
    values: { app: { env: { SHUTDOWN_GRACE_SECONDS: 'soon' } } },
    schema: /SHUTDOWN_GRACE_SECONDS/,
    sentence: null,
  },
  'an environment of lists': {
    values: { app: { env: { TRUSTED_ORIGINS: ['https://a.example.com'] } } },
    schema: /TRUSTED_ORIGINS/,
    sentence: null,
  },
}
