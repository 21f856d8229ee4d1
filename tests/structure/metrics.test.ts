import { expect, test } from 'vitest'
import { renderMetrics } from '../../scripts/metrics.ts'
import {
  faultsOf,
  filesWithQueries,
  knownSeries,
  queriesOfAlerts,
  queriesOfDashboard,
  queriesOfDocs,
} from '../support/metric-queries.ts'

const ALERTS = 'chart/files/alerts.yaml'
const DASHBOARD = 'ops/grafana/lobu.json'

test('docs/observability.md lists every metric as the source defines it (npm run docs)', () => {
  const { current, rendered } = renderMetrics()
  expect(current).toBe(rendered)
})

test('every file of rules or panels is among those that are checked here', () => {
  // The template takes its rules from the file of alerts.
  expect(filesWithQueries()).toEqual([ALERTS, 'chart/templates/monitoring/prometheusrule.yaml', DASHBOARD])
})

test('alerts and dashboard parse, and ask for series, labels and values that exist, and show labels that they have', async () => {
  const known = await knownSeries()
  const [alerts, panels] = [queriesOfAlerts(ALERTS), queriesOfDashboard(DASHBOARD)]
  expect(Math.min(alerts.length, panels.length)).toBeGreaterThan(10)
  expect([...alerts, ...panels].flatMap((query) => faultsOf(query, known))).toEqual([])
})

test('documents and runbooks name metrics, labels and values that exist', async () => {
  const known = await knownSeries({ families: true })
  const named = queriesOfDocs()
  expect(named.length).toBeGreaterThan(40)
  expect(named.flatMap((query) => faultsOf(query, known))).toEqual([])
})

test.each([
  ['sum(lobu_streams', [], 'does not parse at ""'],
  ['rate(lobu_streams_ended_total)', [], 'rate wants a range'],
  ['sum(lobu_workers_most)', [], 'there is no lobu_workers_most'],
  ['lobu_run_duration_seconds', [], 'there is no lobu_run_duration_seconds'],
  ['lobu_workers{status="busy"}', [], 'lobu_workers has no label status'],
  ['lobu_workers{state="bussy"}', [], 'state of lobu_workers is never bussy'],
  ['lobu_workers{state=~"busy|cold"}', [], 'state of lobu_workers is never cold'],
  ['sum by (queue, kind) (lobu_queue_depth)', [], 'by (queue, kind): there is no label kind'],
  ['sum without (kind) (lobu_queue_depth)', [], 'without (kind): there is no label kind'],
  ['lobu_workers{state="busy"} / lobu_workers_max', [], '"/" never finds a pair'],
  [
    'histogram_quantile(0.9, sum(rate(lobu_run_duration_seconds_bucket[5m])))',
    [],
    'histogram_quantile wants the label le',
  ],
  ['sum by (queue) (lobu_queue_depth)', ['pod'], 'the result has no label pod'],
  ['max(lobu_loop_age_seconds) > 60', ['loop'], 'the result has no label loop'],
  ['absent(lobu_ready{pod=~"a.*"})', ['pod'], 'the result has no label pod'],
])('%s, showing %j, is a fault: %s', async (text, shown, fault) => {
  const faults = faultsOf({ at: 'here', text, shown }, await knownSeries())
  expect(faults).toEqual([expect.stringContaining(`here: ${fault}`)])
})
