import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import protobuf from 'protobufjs'
import { onTestFinished } from 'vitest'

/** https://github.com/open-telemetry/opentelemetry-proto, as far as a trace is made of it. */
const PROTO = `
syntax = "proto3";
message AnyValue { oneof value { string string_value = 1; bool bool_value = 2; int64 int_value = 3; double double_value = 4; } }
message KeyValue { string key = 1; AnyValue value = 2; }
message Resource { repeated KeyValue attributes = 1; }
message Status { string message = 2; int32 code = 3; }
message Span {
  bytes trace_id = 1; bytes span_id = 2; string trace_state = 3; bytes parent_span_id = 4; string name = 5; int32 kind = 6;
  fixed64 start_time_unix_nano = 7; fixed64 end_time_unix_nano = 8; repeated KeyValue attributes = 9; Status status = 15;
}
message ScopeSpans { repeated Span spans = 2; }
message ResourceSpans { Resource resource = 1; repeated ScopeSpans scope_spans = 2; }
message Request { repeated ResourceSpans resource_spans = 1; }
`
const Request = protobuf.parse(PROTO).root.lookupType('Request')

export interface CollectedSpan {
  name: string
  traceId: string
  spanId: string
  /** Empty for one that begins a trace. */
  parentId: string
  kind: 'internal' | 'server' | 'client' | 'producer' | 'consumer'
  attributes: Record<string, string | number | boolean>
  failed: boolean
  startNs: bigint
  endNs: bigint
  /** Attributes of the process that sent it. */
  resource: Record<string, string | number | boolean>
}

export interface Collector {
  /** For `OTEL_EXPORTER_OTLP_ENDPOINT`. */
  readonly url: string
  spans(): CollectedSpan[]
  /** All that was sent, headers included, as text. */
  raw(): string
  /** The same without the headers. */
  bodies(): string
}

const KINDS = ['internal', 'internal', 'server', 'client', 'producer', 'consumer'] as const

/** A collector on the loopback interface that keeps what it is sent, until the test is over. */
export async function startCollector(protocol: 'http/protobuf' | 'http/json' | 'grpc'): Promise<Collector> {
  const spans: CollectedSpan[] = []
  const raw: string[] = []
  const bodies: string[] = []
  const take = (body: Buffer, headers: unknown) => {
    bodies.push(body.toString('latin1'))
    raw.push(JSON.stringify(headers), body.toString('latin1'))
    spans.push(...(protocol === 'http/json' ? readJson(body) : readProtobuf(body)))
  }
  const port = protocol === 'grpc' ? await serveGrpc(take) : await serveHttp(take)
  return {
    url: `http://127.0.0.1:${port}`,
    spans: () => spans,
    raw: () => raw.join('\n'),
    bodies: () => bodies.join('\n'),
  }
}

type Take = (body: Buffer, headers: unknown) => void

async function serveHttp(take: Take): Promise<number> {
  const server = createServer(async (req, res) => {
    const body = await buffer(req)
    if (req.url !== '/v1/traces') return res.writeHead(404).end()
    take(body, req.headers)
    res
      .writeHead(200, { 'content-type': req.headers['content-type'] })
      .end(req.headers['content-type']?.includes('json') ? '{}' : '')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

function serveGrpc(take: Take): Promise<number> {
  const server = new Server()
  const pass = (bytes: Buffer) => bytes
  server.addService(
    {
      export: {
        path: '/opentelemetry.proto.collector.trace.v1.TraceService/Export',
        ...{ requestStream: false, responseStream: false },
        ...{ requestSerialize: pass, requestDeserialize: pass, responseSerialize: pass, responseDeserialize: pass },
      },
    },
    {
      export(call: { request: Buffer; metadata: { getMap(): unknown } }, done: (error: null, answer: Buffer) => void) {
        take(call.request, call.metadata.getMap())
        done(null, Buffer.alloc(0))
      },
    },
  )
  onTestFinished(() => server.forceShutdown())
  return new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) =>
      error ? reject(error) : resolve(port),
    )
  })
}

// biome-ignore lint/suspicious/noExplicitAny: what the two encodings have in common is read by hand
type Loose = any

function readProtobuf(body: Buffer): CollectedSpan[] {
  const { resourceSpans } = Request.toObject(Request.decode(body), { longs: String, bytes: Buffer }) as Loose
  return readSpans(resourceSpans, (id: Buffer | undefined) => (id ? Buffer.from(id).toString('hex') : ''))
}

function readJson(body: Buffer): CollectedSpan[] {
  return readSpans(JSON.parse(body.toString('utf8')).resourceSpans, (id: string | undefined) => id ?? '')
}

function readSpans(resourceSpans: Loose[], idOf: (id: Loose) => string): CollectedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap(({ spans }: Loose) =>
      spans.map((span: Loose) => ({
        name: span.name,
        traceId: idOf(span.traceId),
        spanId: idOf(span.spanId),
        parentId: idOf(span.parentSpanId),
        kind: KINDS[span.kind ?? 0]!,
        attributes: readAttributes(span.attributes),
        failed: span.status?.code === 2,
        startNs: BigInt(span.startTimeUnixNano),
        endNs: BigInt(span.endTimeUnixNano),
        resource: readAttributes(resource.attributes),
      })),
    ),
  )
}

function readAttributes(pairs: Loose[] = []): Record<string, string | number | boolean> {
  return Object.fromEntries(
    pairs.map(({ key, value }) => [
      key,
      value.intValue === undefined ? Object.values(value)[0] : Number(value.intValue),
    ]),
  )
}
