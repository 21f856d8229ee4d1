import type { Env } from './environment.ts'

export const OTLP_PROTOCOLS = ['http/protobuf', 'http/json', 'grpc'] as const
/** https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ */
export const SAMPLERS = [
  ...(['always_on', 'always_off', 'traceidratio'] as const),
  ...(['parentbased_always_on', 'parentbased_always_off', 'parentbased_traceidratio'] as const),
] as const

/** What is told about the gateway, and to whom. All of it is off unless it is set. */
export function telemetrySettings(e: Env) {
  return {
    metrics:
      e.METRICS_PORT === undefined
        ? null
        : {
            port: e.METRICS_PORT,
            host: e.METRICS_HOST ?? e.HOST ?? (e.NODE_ENV === 'production' ? '0.0.0.0' : '127.0.0.1'),
            token: e.METRICS_AUTH_TOKEN,
          },
    tracing: tracingSettings(e),
    errors: e.SENTRY_DSN === undefined ? null : { dsn: e.SENTRY_DSN, environment: e.SENTRY_ENVIRONMENT ?? e.NODE_ENV },
  }
}

/** The standard variables, as far as the SDK does not read them itself. */
function tracingSettings(e: Env) {
  const protocol = e.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL ?? e.OTEL_EXPORTER_OTLP_PROTOCOL
  const url = e.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? tracesUrl(e.OTEL_EXPORTER_OTLP_ENDPOINT, protocol)
  if (url === undefined || e.OTEL_SDK_DISABLED) return null
  return {
    url,
    protocol,
    sampler: e.OTEL_TRACES_SAMPLER,
    ratio: e.OTEL_TRACES_SAMPLER_ARG,
    serviceName: e.OTEL_SERVICE_NAME,
    delayMs: e.OTEL_BSP_SCHEDULE_DELAY,
    queueMax: e.OTEL_BSP_MAX_QUEUE_SIZE,
    /** Values of headers; they may be keys. */
    secrets: [e.OTEL_EXPORTER_OTLP_HEADERS, e.OTEL_EXPORTER_OTLP_TRACES_HEADERS].flatMap(headerValues),
  }
}

function tracesUrl(endpoint: string | undefined, protocol: (typeof OTLP_PROTOCOLS)[number]): string | undefined {
  if (endpoint === undefined || protocol === 'grpc') return endpoint
  return `${endpoint.replace(/\/+$/, '')}/v1/traces`
}

/** Both as they are written and as they are sent. */
function headerValues(headers: string): string[] {
  return headers.split(',').flatMap((pair) => {
    const value = pair.slice(pair.indexOf('=') + 1).trim()
    return [value, decode(value)]
  })
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
