import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { renderMetrics } from '../../scripts/metrics.ts'
import { METRICS } from '../../src/telemetry/definitions.ts'
import { createMetrics } from '../../src/telemetry/prometheus.ts'

const root = path.join(import.meta.dirname, '../..')

/** Dashboards, and rules of alerts wherever they are: what asks for metrics by name. */
function queries(): { file: string; text: string }[] {
  return ['ops', 'chart'].flatMap((folder) => {
    const dir = path.join(root, folder)
    if (!existsSync(dir)) return []
    return readdirSync(dir, { recursive: true, encoding: 'utf8' })
      .filter((file) => /\.(ya?ml|json|tpl)$/.test(file))
      .map((file) => ({ file: path.join(folder, file), text: readFileSync(path.join(dir, file), 'utf8') }))
      .filter(({ text }) => /PrometheusRule|"panels"|^\s*- alert:|\bexpr:/m.test(text))
  })
}

const namesIn = (text: string) => text.match(/\b(lobu|process|nodejs)_[a-z0-9_]+/g) ?? []

test('docs/observability.md lists every metric as the source defines it (npm run docs)', () => {
  const { current, rendered } = renderMetrics()
  expect(current).toBe(rendered)
})

test('dashboards and alert rules name only metrics that exist, and their labels', async () => {
  const { text } = await createMetrics().render()
  const known = new Set(
    [...text.matchAll(/^# TYPE (\S+) (\S+)/gm)].flatMap(([, name, kind]) => {
      return kind === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name!]
    }),
  )
  const unknown = queries().flatMap(({ file, text }) =>
    namesIn(text)
      .filter((name) => !known.has(name))
      .map((name) => `${file}: ${name}`),
  )
  expect(unknown).toEqual([])
  expect(queries().length).toBeGreaterThan(0)

  const labels = queries().flatMap(({ file, text }) =>
    [...text.matchAll(/\b(lobu_[a-z0-9_]+)\{([^}]*)\}/g)].flatMap(([, name, matchers]) => {
      const base = name!.replace(/_(bucket|sum|count)$/, '')
      const { labels: own } = METRICS[(base in METRICS ? base : name) as keyof typeof METRICS]
      const used = [...matchers!.matchAll(/([a-z_]+)\s*(?:=~|!~|!=|=)/g)].map(([, label]) => label!)
      return used
        .filter((label) => ![...own, 'le', 'job', 'instance', 'namespace', 'pod'].includes(label as never))
        .map((label) => `${file}: ${name} has no label ${label}`)
    }),
  )
  expect(labels).toEqual([])
})
