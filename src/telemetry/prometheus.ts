import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { type Definition, METRICS } from './definitions.ts'
import type { Metrics } from './metrics.ts'

/** Distinct values of one label of one metric; what comes later counts as `other`. Names of models are anybody's to make up. */
const LABEL_VALUES_MAX = 100
const LABEL_CHARS_MAX = 100

/** What alerts look at for an increase, which a series that is born with its first event does not show. */
const FROM_ZERO = ['lobu_dead_letters_total', 'lobu_runs_ended_total'] as const

/** Metrics that are kept. Load this file only when somebody asks for them: a gateway without metrics does not hold prom-client. */
export function createMetrics(): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const kinds = { counter: Counter, gauge: Gauge, histogram: Histogram }
  const made = new Map<string, { inc?: unknown; observe?: unknown; set?: unknown; reset(): void }>()
  for (const [name, definition] of Object.entries<Definition>(METRICS)) {
    const { kind, help, labels, buckets } = definition
    const options = { name, help, labelNames: [...labels], registers: [registry] }
    made.set(name, new kinds[kind](buckets ? { ...options, buckets: [...buckets] } : options))
  }
  const bound = createLabelBound()
  const updates: (() => Promise<void> | void)[] = []
  const find = <T>(name: string) => made.get(name) as T
  for (const name of FROM_ZERO)
    for (const [label, values] of Object.entries(METRICS[name].values))
      for (const value of values) find<Counter>(name).inc({ [label]: value }, 0)
  // prom-client starts those without labels at 0, which says of what nobody has looked at yet that it is empty, or fresh.
  for (const [name, { kind }] of Object.entries<Definition>(METRICS)) if (kind === 'gauge') clear(find<Gauge>(name))
  // Who waits for the database reports nothing else, and alerts ask for this one.
  find<Gauge>('lobu_ready').set(0)

  return {
    enabled: true,
    count: (name, labels, by = 1) => find<Counter>(name).inc(bound(name, labels), by),
    observe: (name, labels, value) => find<Histogram>(name).observe(bound(name, labels), Math.max(0, value)),
    set(name, readings) {
      const gauge = find<Gauge>(name)
      clear(gauge)
      for (const { labels, value } of readings) gauge.set(bound(name, labels), value)
    },
    beforeRender: (update) => void updates.push(update),
    async render() {
      await Promise.allSettled(updates.map(async (update) => update()))
      return { contentType: registry.contentType, text: await registry.metrics() }
    },
  }
}

/** Leaves the gauge without any value. */
function clear(gauge: Gauge) {
  gauge.reset()
  gauge.remove({})
}

/** Keeps the number of series within bounds, whatever is reported. */
function createLabelBound() {
  const known = new Map<string, Set<string>>()
  return (metric: string, labels: Record<string, string>): Record<string, string> => {
    const safe: Record<string, string> = {}
    for (const name in labels) {
      const value = labels[name]!.slice(0, LABEL_CHARS_MAX)
      const key = `${metric} ${name}`
      const values = known.get(key) ?? new Set()
      known.set(key, values)
      const hasRoom = values.has(value) || values.size < LABEL_VALUES_MAX
      if (hasRoom) values.add(value)
      safe[name] = hasRoom ? value : 'other'
    }
    return safe
  }
}
