import type { Logger } from '../lib/logger.ts'
import type { Redactions } from '../lib/redactions.ts'
import { createMetricsListener, type MetricsListenerOptions } from './listener.ts'
import { type Metrics, NO_METRICS } from './metrics.ts'
import type { SendingTracer, TracingSettings } from './otel.ts'
import type { ErrorReportSettings } from './sentry.ts'
import { NO_TRACER, type Tracer } from './tracer.ts'

export interface TelemetrySettings {
  metrics: MetricsListenerOptions | null
  tracing: Omit<TracingSettings, 'serviceVersion'> | null
  errors: Omit<ErrorReportSettings, 'version'> | null
}

/** What the gateway tells about itself. */
export interface Telemetry {
  readonly metrics: Metrics
  readonly tracer: Tracer
  /** Is shown the lines of the log that tell of trouble. */
  readonly onTrouble: (line: string) => void
  /** Opens the port for scrapers, where there is one. @throws Error that says what to do when it cannot be had. */
  listen(): Promise<void>
  /** Sends what is still to be sent, within `withinMs`, and closes. May be called twice. */
  close(withinMs: number): Promise<void>
}

interface OpenDeps {
  log: Logger
  redactions: Pick<Redactions, 'clean'>
}

/** Loads what the settings ask for, and nothing else. */
export async function openTelemetry(
  deps: OpenDeps,
  settings: TelemetrySettings & { version: string },
): Promise<Telemetry> {
  const { log } = deps
  const metrics = settings.metrics ? (await import('./prometheus.ts')).createMetrics() : NO_METRICS
  const listener = settings.metrics && createMetricsListener({ metrics, log }, settings.metrics)
  const sending =
    settings.tracing && (await openTracing(deps, { ...settings.tracing, serviceVersion: settings.version }))
  const { version, errors } = settings
  const reports = errors && (await import('./sentry.ts')).createErrorReports(deps, { ...errors, version })
  return {
    metrics,
    tracer: sending ?? NO_TRACER,
    onTrouble: reports?.show ?? (() => {}),
    async listen() {
      const port = await listener?.start()
      if (port !== undefined) log.info({ port, path: '/metrics' }, 'metrics listening')
    },
    async close(withinMs) {
      await Promise.all([listener?.stop(), sending?.close(withinMs), reports?.close(withinMs)])
    },
  }
}

async function openTracing(deps: OpenDeps, settings: TracingSettings): Promise<SendingTracer> {
  const { createSendingTracer } = await import('./otel.ts')
  return createSendingTracer(deps, settings)
}
