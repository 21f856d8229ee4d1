import type { CounterName, GaugeName, HistogramName, LabelsOf } from './definitions.ts'

/** One value of a gauge under its labels. */
export type Reading<N extends GaugeName> = { labels: LabelsOf<N>; value: number }

/** Where parts report figures. All of it is cheap enough for hot paths, and does nothing where nobody asks for metrics. */
export interface Metrics {
  readonly enabled: boolean
  count<N extends CounterName>(name: N, labels: LabelsOf<N>, by?: number): void
  /** In the unit that the name ends with. */
  observe<N extends HistogramName>(name: N, labels: LabelsOf<N>, value: number): void
  /** Replaces all values of a gauge. Without any, and before the first call, it is left out; only `lobu_ready` begins with 0. */
  set<N extends GaugeName>(name: N, readings: Reading<N>[]): void
  /** Called before each rendering, to bring gauges up to date. One that rejects is left out. */
  beforeRender(update: () => Promise<void> | void): void
  /** All metrics in Prometheus' text format. Never rejects for an update that does. */
  render(): Promise<{ contentType: string; text: string }>
}

export const NO_METRICS: Metrics = {
  enabled: false,
  count() {},
  observe() {},
  set() {},
  beforeRender() {},
  render: async () => ({ contentType: 'text/plain', text: '' }),
}
