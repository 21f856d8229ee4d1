import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { renderValues } from '../../scripts/chart-values.ts'
import { CHART, findHelms, type KubernetesObject } from '../support/helm.ts'
import { podLabelsOf } from '../support/references.ts'
import { GOOD, PAGE } from './value-sets.ts'

const DOCS = path.join(CHART, '../docs')
const RUNBOOKS = path.join(DOCS, 'runbooks')
const read = (...parts: string[]) => readFileSync(path.join(...parts), 'utf8')

interface Alert {
  alert: string
  expr: string
  for: string
  severity: string
  summary: string
  description: string
}

const MINUTES = /for (a|two|five|ten) minutes?\b/
const WORDS: Record<string, number> = { a: 1, two: 2, five: 5, ten: 10 }

const { metrics, alerts } = parse(read(CHART, 'files/alerts.yaml')) as { metrics: string[]; alerts: Alert[] }

/** Kinds as kubectl is told them. */
const KINDS: Record<string, string> = {
  ...{ deploy: 'Deployment', deployment: 'Deployment' },
  ...{ svc: 'Service', service: 'Service' },
  ...{ job: 'Job', ingress: 'Ingress', pod: 'Pod', configmap: 'ConfigMap', networkpolicy: 'NetworkPolicy' },
}

const helms = await findHelms()

test('chart/README.md lists every value as chart/values.yaml has it (npm run docs)', () => {
  const { current, rendered } = renderValues()
  expect(current).toBe(rendered)
})

test('the chart, its image and the package are of one version', () => {
  const { version } = JSON.parse(read(CHART, '../package.json'))
  const chart = parse(read(CHART, 'Chart.yaml'))
  expect([chart.name, chart.version, chart.appVersion]).toEqual(['lobu', version, version])
})

describe('alerts', () => {
  test('use the metrics that are listed, and all of them', () => {
    const used = alerts.flatMap(({ expr }) => expr.match(/\blobu_[a-z0-9_]+/g) ?? [])
    expect([...new Set(used)].sort()).toEqual(metrics)
  })

  test.each(alerts)(
    '$alert looks at one release alone, says what it is about, and has a page',
    ({ expr, ...alert }) => {
      for (const [, selector] of expr.matchAll(/\blobu_[a-z0-9_]+(\{[^}]*\})?/g)) expect(selector).toMatch(/\$scope\}$/)
      expect(['critical', 'warning']).toContain(alert.severity)
      expect(alert.for).toMatch(/^\d+[mh]$/)
      expect(`${alert.summary}${alert.description}`).not.toMatch(/undefined/)
      const page = read(RUNBOOKS, `${alert.alert}.md`)
      expect(page).toMatch(new RegExp(`^# ${alert.alert}\n`))
      for (const heading of ['## What it means', '## What to look at', '## What to do']) expect(page).toContain(heading)
    },
  )

  test.each(alerts.filter(({ description }) => MINUTES.test(description)))(
    '$alert fires after as long as it says',
    ({ expr, for: pending, description }) => {
      const [, word] = MINUTES.exec(description)!
      // An age has to be reached, a window has to be filled, and only then it counts how long that lasts.
      const [, age = '0'] = /_age_seconds\{[^}]*\}\)? > (\d+)/.exec(expr) ?? []
      const [, window = '0'] = /_over_time\([^[]*\[(\d+)m\]/.exec(expr) ?? []
      expect(WORDS[word!]).toBe(Number.parseInt(pending, 10) + Number(age) / 60 + Number(window))
    },
  )

  test('have no page without an alert', () => {
    const pages = readdirSync(RUNBOOKS).filter((name) => name !== 'README.md')
    expect(pages.sort()).toEqual(alerts.map(({ alert }) => `${alert}.md`).sort())
  })

  test('reach the operator whole, with the labels of the release and a link to the page', async ({ skip }) => {
    const [helm] = helms
    if (!helm) return skip('there is no helm')
    const objects = await helm.render(GOOD['an autoscaler and monitoring']!)
    const { rules } = objects.find(({ kind }) => kind === 'PrometheusRule').spec.groups[0]
    expect(rules.map((rule: KubernetesObject) => rule.alert)).toEqual(alerts.map(({ alert }) => alert))
    for (const rule of rules) {
      expect(rule.expr).toContain('namespace="lobu",service="lobu-app-metrics"')
      expect(rule.expr).not.toContain('$scope')
      expect(rule.annotations.runbook_url).toMatch(new RegExp(`/docs/runbooks/${rule.alert}\\.md$`))
    }
    // Prometheus' own templates are not Helm's.
    const text = JSON.stringify(rules)
    expect(text).toContain('{{ $labels.pod }}')
  })
})

describe('commands for kubectl name what a release "lobu" has', () => {
  const inDocs = readdirSync(DOCS, { recursive: true, encoding: 'utf8' }).map((name) => `docs/${name}`)
  const pages = [...inDocs, 'README.md', 'CHANGELOG.md', 'chart/README.md'].filter((name) => name.endsWith('.md'))
  // What stands behind `--` is run in the pod.
  const commandsOf = (name: string) => read(CHART, '..', name).match(/\bkubectl (?:(?! -- )[^\n`|])+/g) ?? []
  const withCommands = pages.filter((name) => commandsOf(name).length > 0)
  const rendered = helms[0]?.render({ files: [PAGE], values: { metrics: { enabled: true } } })

  test('are looked for on all pages', () => {
    const known = ['docs/kubernetes.md', 'docs/backup.md', 'docs/runbooks/LobuAbsent.md']
    expect(withCommands).toEqual(expect.arrayContaining(known))
  })

  test.skipIf(!rendered).each(withCommands)('%s', async (name) => {
    const objects = await rendered!
    for (const command of commandsOf(name)) {
      for (const [, kind, sign, object] of command.matchAll(/(?<= )([a-z]+)([/ ])([a-z][a-z0-9-]*)/g)) {
        if (sign === ' ' && KINDS[kind!] === undefined) continue
        const isThere = objects.some((one) => one.kind === KINDS[kind!] && one.metadata.name === object)
        expect(isThere, command).toBe(true)
      }
      for (const [, selector] of command.matchAll(/ -l (\S+)/g)) {
        const wanted = selector!.split(',').map((pair) => pair.split('='))
        const labels = objects.map((one) => podLabelsOf(one) ?? {})
        const isThere = labels.some((has) => wanted.every(([label, value]) => has[label!] === value))
        expect(isThere, command).toBe(true)
      }
    }
  })
})

describe('docs/kubernetes.md', () => {
  const page = existsSync(path.join(DOCS, 'kubernetes.md')) ? read(DOCS, 'kubernetes.md') : ''

  test('has the commands of the published page', () => {
    for (const command of [
      'kubectl create namespace lobu',
      'kubectl -n lobu create secret generic lobu-db',
      'kubectl -n lobu create secret generic lobu-secrets',
      'helm install lobu oci://ghcr.io/lobu-ai/charts/lobu',
      'helm upgrade lobu oci://ghcr.io/lobu-ai/charts/lobu',
      'kubectl -n lobu get pods -l app.kubernetes.io/instance=lobu',
      'kubectl -n lobu logs deploy/lobu-app',
      'kubectl -n lobu get ingress',
      'kubectl -n lobu port-forward svc/lobu-app 8787:8787',
      'curl http://localhost:8787/health',
    ]) {
      expect(page).toContain(command)
    }
  })

  test('has values that render', async ({ skip }) => {
    const [helm] = helms
    if (!helm) return skip('there is no helm')
    const examples = [...page.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, text]) => parse(text!) as object)
    expect(examples.length).toBeGreaterThan(2)
    for (const values of examples) expect((await helm.render({ values })).length).toBeGreaterThan(0)
  })

  test('links to pages that exist', () => {
    for (const [, target] of page.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)) {
      expect(existsSync(path.join(DOCS, target!)), target).toBe(true)
    }
  })
})
