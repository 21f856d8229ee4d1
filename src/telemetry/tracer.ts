/** Values of a span's attributes. Never content: no message, no answer, no argument of a tool. */
export type Attributes = Record<string, string | number | boolean | undefined>

export interface SpanOptions {
  /** `traceparent` of what this is a part of; without one it begins a trace. */
  parent: string | null | undefined
  /** `internal` unless given. https://opentelemetry.io/docs/specs/otel/trace/api/#spankind */
  kind?: 'internal' | 'server' | 'client' | 'consumer'
  attributes?: Attributes
  /** Epoch milliseconds; now unless given. */
  startedAt?: number
}

export interface Span {
  /** Names this span to whatever is a part of it, here or anywhere else. Without a tracer it is what the span was given. */
  readonly traceparent: string | undefined
  set(attributes: Attributes): void
  rename(name: string): void
  /** It did not go well. The sentence is kept free of known secrets. */
  fail(sentence?: string): void
  /** Once; what comes later changes nothing. Epoch milliseconds, now unless given. */
  end(endedAt?: number): void
}

/**
 * Makes spans. There is no context that is carried along by itself: whoever does something hands the `traceparent` on, by
 * argument, by row or by header, so a span's parent is what the code says and never what happened to run before.
 */
export interface Tracer {
  readonly enabled: boolean
  start(name: string, options: SpanOptions): Span
}

const nothing = () => {}

/** Records nothing, and hands on what it was given. */
export const NO_TRACER: Tracer = {
  enabled: false,
  start: (_name, { parent }) => ({
    traceparent: parent ?? undefined,
    set: nothing,
    rename: nothing,
    fail: nothing,
    end: nothing,
  }),
}

/** Runs `work` in a span, which fails when it does. */
export async function inSpan<T>(
  tracer: Tracer,
  options: SpanOptions & { name: string },
  work: () => Promise<T>,
): Promise<T> {
  if (!tracer.enabled) return work()
  const span = tracer.start(options.name, options)
  try {
    return await work()
  } catch (error) {
    span.fail(error instanceof Error ? error.name : undefined)
    throw error
  } finally {
    span.end()
  }
}
