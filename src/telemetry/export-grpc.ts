import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-grpc'
import type { SpanExporter } from '@opentelemetry/sdk-trace'

export function createGrpcExporter(url: string): SpanExporter {
  return new OTLPTraceExporter({ url })
}
