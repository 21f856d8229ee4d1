import { ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
  serviceInstanceIdDetector,
} from '@opentelemetry/resources'
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  type Sampler,
  type SpanExporter,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace'
import type { Logger } from '../lib/logger.ts'
import type { Redactions } from '../lib/redactions.ts'
import { settlesWithin } from '../lib/settles-within.ts'
import { formatTraceparent, readTraceparent } from '../lib/traceparent.ts'
import type { Attributes, Tracer } from './tracer.ts'

export interface TracingSettings {
  /** Where spans go, as the protocol wants it: of http the whole path. */
  url: string
  protocol: 'http/protobuf' | 'http/json' | 'grpc'
  /** https://opentelemetry.io/docs/specs/otel/trace/sdk/#built-in-samplers */
  sampler: `${'' | 'parentbased_'}${'always_on' | 'always_off' | 'traceidratio'}`
  /** Share of traces that a `traceidratio` sampler records, 0 to 1. */
  ratio: number
  serviceName: string
  serviceVersion: string
  /** How long spans collect before they are sent. */
  delayMs: number
  /** Spans that wait to be sent; more are dropped. */
  queueMax: number
}

/** A tracer whose spans are sent to a collector. */
export interface SendingTracer extends Tracer {
  /** Sends what waits. Resolves when it is sent, or can't be, or after `withinMs`. */
  close(withinMs: number): Promise<void>
}

const KINDS = {
  internal: SpanKind.INTERNAL,
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
  consumer: SpanKind.CONSUMER,
}
/** Of any text in a span. */
const TEXT_CHARS_MAX = 500

/**
 * Spans by the OpenTelemetry SDK, in batches, to a collector that speaks OTLP. Load this file only when there is one to send
 * to. What the standard environment says beyond `TracingSettings` (headers, certificates, compression, timeouts, resource
 * attributes) the SDK reads itself.
 */
export async function createSendingTracer(
  deps: { log: Logger; redactions: Pick<Redactions, 'clean'> },
  settings: TracingSettings,
): Promise<SendingTracer> {
  const exporter = warnOnce(await createExporter(settings), deps.log)
  const provider = new TracerProvider({
    sampler: samplerOf(settings),
    resource: defaultResource()
      .merge(
        resourceFromAttributes({ 'service.name': settings.serviceName, 'service.version': settings.serviceVersion }),
      )
      .merge(detectResources({ detectors: [serviceInstanceIdDetector, envDetector] })),
    spanProcessors: [
      new BatchSpanProcessor({
        exporter,
        scheduledDelayMillis: settings.delayMs,
        maxQueueSize: settings.queueMax,
        maxExportBatchSize: Math.min(512, settings.queueMax),
      }),
    ],
  })
  const sdk = provider.getTracer('lobu', settings.serviceVersion)
  const text = (value: string) => deps.redactions.clean(value).slice(0, TEXT_CHARS_MAX)

  function cleaned(attributes: Attributes = {}) {
    return Object.fromEntries(
      Object.entries(attributes).map(([name, value]) => [name, typeof value === 'string' ? text(value) : value]),
    )
  }

  return {
    enabled: true,
    start(name, { parent, kind = 'internal', attributes, startedAt }) {
      const given = readTraceparent(parent)
      const context = given
        ? trace.setSpanContext(ROOT_CONTEXT, { ...given, traceFlags: given.flags & 1, isRemote: true })
        : ROOT_CONTEXT
      const span = sdk.startSpan(
        text(name),
        {
          kind: KINDS[kind],
          attributes: cleaned(attributes),
          ...(startedAt === undefined ? {} : { startTime: new Date(startedAt) }),
        },
        context,
      )
      const { traceId, spanId, traceFlags } = span.spanContext()
      return {
        traceparent: formatTraceparent({ traceId, spanId, flags: traceFlags }),
        set: (more) => void span.setAttributes(cleaned(more)),
        rename: (to) => void span.updateName(text(to)),
        fail: (sentence = '') => void span.setStatus({ code: SpanStatusCode.ERROR, message: text(sentence) }),
        end: (endedAt) => span.end(endedAt === undefined ? undefined : new Date(endedAt)),
      }
    },
    async close(withinMs) {
      await settlesWithin(provider.shutdown(), withinMs)
    },
  }
}

/** Each protocol's code is loaded alone: that of gRPC is the largest part of all this. */
async function createExporter({ protocol, url }: TracingSettings): Promise<SpanExporter> {
  if (protocol === 'grpc') return (await import('./export-grpc.ts')).createGrpcExporter(url)
  const { createHttpExporter } = await import('./export-http.ts')
  return createHttpExporter(url, protocol)
}

function samplerOf({ sampler, ratio }: TracingSettings): Sampler {
  const root = sampler.endsWith('always_on')
    ? new AlwaysOnSampler()
    : sampler.endsWith('always_off')
      ? new AlwaysOffSampler()
      : new TraceIdRatioBasedSampler(ratio)
  return sampler.startsWith('parentbased') ? new ParentBasedSampler({ root }) : root
}

/** A collector that is away is worth one line, and one when it is back; its spans are dropped, as its queue is bounded. */
function warnOnce(exporter: SpanExporter, log: Logger): SpanExporter {
  let failing = false
  return {
    export(spans, done) {
      exporter.export(spans, (result) => {
        const failed = result.code !== 0
        if (failed && !failing) {
          log.warn(
            { reason: result.error?.message.slice(0, TEXT_CHARS_MAX) },
            'traces cannot be delivered and are dropped',
          )
        } else if (!failed && failing) log.info('traces are delivered again')
        failing = failed
        done(result)
      })
    },
    shutdown: () => exporter.shutdown(),
    forceFlush: async () => exporter.forceFlush?.(),
  }
}
