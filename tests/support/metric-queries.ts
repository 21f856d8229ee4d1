import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { parse } from 'yaml'
import { type Definition, METRICS } from '../../src/telemetry/definitions.ts'
import { createMetrics } from '../../src/telemetry/prometheus.ts'
import { readQuery, type Selector } from './promql.ts'

const ROOT = path.join(import.meta.dirname, '../..')
/** What a scraper adds to every series. */
const TARGET = ['job', 'instance', 'namespace', 'service', 'pod']
/** Names that look like a metric's. */
const OTHER_NAMES = ['lobu_tenant']

/** One expression, and the labels that its texts show. */
export interface WrittenQuery {
  at: string
  text: string
  shown: string[]
}

const read = (file: string) => readFileSync(path.join(ROOT, file), 'utf8')

function listFiles(folder: string, name: RegExp): string[] {
  const files = readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' })
  return files.filter((file) => name.test(file)).map((file) => path.posix.join(folder, file))
}

/** Files that hold rules or a dashboard. */
export function filesWithQueries(): string[] {
  const files = [...listFiles('ops', /\.(ya?ml|json)$/), ...listFiles('chart', /\.(ya?ml|json|tpl)$/)]
  return files.filter((file) => /PrometheusRule|"panels"|^\s*- alert:|\bexpr:/m.test(read(file))).sort()
}

/** The expressions of a file of alerts, as those of a release. */
export function queriesOfAlerts(file: string): WrittenQuery[] {
  const { alerts } = parse(read(file)) as { alerts: Record<'alert' | 'expr' | 'summary' | 'description', string>[] }
  return alerts.map(({ alert, expr, summary, description }) => ({
    at: `${file}: ${alert}`,
    text: expr.replaceAll('$scope', 'namespace="lobu",service="lobu-app-metrics"'),
    shown: [...`${summary} ${description}`.matchAll(/\$labels\.(\w+)/g)].map(([, label]) => label!),
  }))
}

/** The expressions of a dashboard: those of its panels, and those that list the values of its variables. */
export function queriesOfDashboard(file: string): WrittenQuery[] {
  const found: WrittenQuery[] = []
  const walk = (value: unknown, at: string) => {
    if (value === null || typeof value !== 'object') return
    const { title, name, expr, legendFormat = '', definition } = value as Record<string, string | undefined>
    const here = title ?? name ?? at
    if (typeof expr === 'string') {
      const shown = [...legendFormat.matchAll(/\{\{\s*(\w+)\s*\}\}/g)].map(([, label]) => label!)
      found.push({ at: `${file}: ${here}`, text: expr.replaceAll('$__rate_interval', '5m'), shown })
    }
    const [, text, label] = /^label_values\((.*), *(\w+)\)$/.exec(definition ?? '') ?? []
    if (text !== undefined) found.push({ at: `${file}: ${here}`, text, shown: [label!] })
    for (const inner of Object.values(value)) walk(inner, here)
  }
  walk(JSON.parse(read(file)), '')
  return found
}

/** Metrics that the documents name, with the labels that they write behind them. */
export function queriesOfDocs(): WrittenQuery[] {
  return ['README.md', 'chart/README.md', ...listFiles('docs', /\.md$/)].flatMap((file) =>
    [...read(file).matchAll(/\b(?:lobu|nodejs)_[a-z0-9_]+(?![\w*])(?:\{[^}]*\})?/g)]
      .filter(([text]) => !OTHER_NAMES.includes(text))
      .map(([text]) => ({ at: file, text, shown: [] })),
  )
}

/** The names of all series that a gateway offers; with `families` also what histograms are called as a whole. */
export async function knownSeries({ families = false } = {}): Promise<Set<string>> {
  const { text } = await createMetrics().render()
  return new Set(
    [...text.matchAll(/^# TYPE (\S+) (\S+)/gm)].flatMap(([, name, kind]) => {
      if (kind !== 'histogram') return [name!]
      return [`${name}_bucket`, `${name}_sum`, `${name}_count`, ...(families ? [name!] : [])]
    }),
  )
}

function definitionOf(series: string): Definition | undefined {
  const metrics: Record<string, Definition> = METRICS
  return metrics[series] ?? metrics[series.replace(/_(bucket|sum|count)$/, '')]
}

function labelsOf(series: string): string[] {
  const le = series.endsWith('_bucket') ? ['le'] : []
  return [...(definitionOf(series)?.labels ?? []), ...le, ...TARGET]
}

/** What is wrong with an expression: it does not parse, finds nothing, or shows a label that its result does not have. */
export function faultsOf({ at, text, shown }: WrittenQuery, known: Set<string>): string[] {
  const { selectors, labels, faults } = readQuery(text, labelsOf)
  const missing = shown.filter((label) => !labels.has(label)).map((label) => `the result has no label ${label}`)
  return [...faults, ...selectors.flatMap((selector) => faultsOfSelector(selector, known)), ...missing].map(
    (fault) => `${at}: ${fault}`,
  )
}

function faultsOfSelector({ metric, matchers }: Selector, known: Set<string>): string[] {
  if (!known.has(metric)) return [`there is no ${metric}`]
  return matchers.flatMap(({ label, operator, value }) => {
    if (!labelsOf(metric).includes(label)) return [`${metric} has no label ${label}`]
    const values = definitionOf(metric)?.values?.[label]
    if (!values) return []
    const asked = operator.endsWith('~') ? value.split('|') : [value]
    const matches = (one: string) =>
      operator.endsWith('~') ? values.some((each) => new RegExp(`^(?:${one})$`).test(each)) : values.includes(one)
    return asked.filter((one) => !matches(one)).map((one) => `${label} of ${metric} is never ${one}`)
  })
}
