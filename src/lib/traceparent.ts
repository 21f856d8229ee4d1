/** https://www.w3.org/TR/trace-context/#traceparent-header; ids of all zeros are invalid there. */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})$/

export interface TraceContext {
  /** 32 hexadecimal digits. */
  traceId: string
  /** 16 hexadecimal digits. */
  spanId: string
  /** Bit 0: whoever began the trace records it. */
  flags: number
}

/** What a `traceparent` header says; undefined for one that is not well-formed, which counts as none. */
export function readTraceparent(header: string | null | undefined): TraceContext | undefined {
  const [, traceId, spanId, flags] = TRACEPARENT.exec(header ?? '') ?? []
  return traceId === undefined ? undefined : { traceId, spanId: spanId!, flags: Number.parseInt(flags!, 16) }
}

export function formatTraceparent({ traceId, spanId, flags }: TraceContext): string {
  return `00-${traceId}-${spanId}-${flags.toString(16).padStart(2, '0')}`
}

/** The trace that a well-formed `traceparent` belongs to, by which logs and traces find each other. */
export function traceIdOf(traceparent: string | null | undefined): string | undefined {
  return traceparent ? traceparent.slice(3, 35) : undefined
}
