import { statusClass } from '../lib/status-class.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { Runner } from './runner.ts'
import type { RunRef } from './turn.ts'
import type { ModelCallEnd } from './turn-trace.ts'

/** Measures one call of a model, and makes it a part of its run's trace. What comes back is told how the call ends. */
export function watchModelCall(
  { metrics, runner }: { metrics: Metrics; runner: Pick<Runner, 'traceModelCall'> },
  { run, traceparent }: { run: RunRef & { provider: string }; traceparent?: string | undefined },
): (end: ModelCallEnd) => void {
  const startedAt = performance.now()
  const traced = runner.traceModelCall(run, traceparent)
  return (end) => {
    traced(end)
    const status = end.aborted ? 'aborted' : statusClass(end.status)
    const seconds = (performance.now() - startedAt) / 1000
    metrics.observe('lobu_model_call_duration_seconds', { provider: run.provider, status }, seconds)
  }
}
