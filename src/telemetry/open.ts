import type { Logger } from '../lib/logger.ts'
import { createMetricsListener, type MetricsListenerOptions } from './listener.ts'
import { type Metrics, NO_METRICS } from './metrics.ts'

export interface TelemetrySettings {
  metrics: MetricsListenerOptions | null
}

/** What the gateway tells about itself. */
export interface Telemetry {
  readonly metrics: Metrics
  /** Opens the port for scrapers, where there is one. @throws Error that says what to do when it cannot be had. */
  listen(): Promise<void>
  /** Sends what is still to be sent, within `withinMs`, and closes. May be called twice. */
  close(withinMs: number): Promise<void>
}

/** Loads what the settings ask for, and nothing else. */
export async function openTelemetry({ log }: { log: Logger }, settings: TelemetrySettings): Promise<Telemetry> {
  const metrics = settings.metrics ? (await import('./prometheus.ts')).createMetrics() : NO_METRICS
  const listener = settings.metrics && createMetricsListener({ metrics, log }, settings.metrics)
  return {
    metrics,
    async listen() {
      const port = await listener?.start()
      if (port !== undefined) log.info({ port, path: '/metrics' }, 'metrics listening')
    },
    async close() {
      await listener?.stop()
    },
  }
}
