import type { Env } from '../config.ts'

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
  }
}
