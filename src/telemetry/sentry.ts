import {
  addBreadcrumb,
  captureEvent,
  close,
  type ErrorEvent,
  type Event,
  init,
  onUncaughtExceptionIntegration,
  onUnhandledRejectionIntegration,
  type StackFrame,
} from '@sentry/node'
import type { Redactions } from '../lib/redactions.ts'

export interface ErrorReportSettings {
  dsn: string
  environment: string
  version: string
}

export interface ErrorReports {
  /** One line of the log, as it was written. An unexpected error is reported; a warning is kept to be told with the next one. */
  show(line: string): void
  /** Sends what waits, for `withinMs` at most. */
  close(withinMs: number): Promise<void>
}

/** Ids by which a report is found, and the trace and the lines that belong to it. */
const TAGS = ['requestId', 'traceId', 'runId', 'conversationId', 'organizationId', 'loop', 'route', 'worker']
/** Reports in a minute; an outage says the same again and again. */
const REPORTS_PER_MINUTE_MAX = 60
/** Warnings that are told with a report. */
const BREADCRUMBS_MAX = 20

/**
 * Reports unexpected errors: lines of the level error that hold one (`err`), and what would end the process. They are made
 * from lines of the log, so they hold what those hold and nothing else: no request, no header, no variable, no message. Load
 * this file only when there is somebody to report to.
 */
export function createErrorReports(
  { redactions }: { redactions: Pick<Redactions, 'clean'> },
  { dsn, environment, version }: ErrorReportSettings,
): ErrorReports {
  init({
    ...{ dsn, environment, release: `lobu@${version}` },
    // The usual ones read requests, source files, modules and local variables, and patch what they watch.
    defaultIntegrations: false,
    integrations: [onUncaughtExceptionIntegration(), onUnhandledRejectionIntegration({ mode: 'strict' })],
    ...{ sendDefaultPii: false, sendClientReports: false, maxBreadcrumbs: BREADCRUMBS_MAX },
    // Our own traces go elsewhere.
    skipOpenTelemetrySetup: true,
    beforeSend: (event) => JSON.parse(redactions.clean(JSON.stringify(withoutContext(event)))) as ErrorEvent,
  })
  let minute = 0
  let reports = 0

  function hasRoom(): boolean {
    const now = Math.floor(performance.now() / 60_000)
    if (now !== minute) reports = 0
    minute = now
    return ++reports <= REPORTS_PER_MINUTE_MAX
  }

  return {
    show(text) {
      const line = parseLine(text)
      if (!line) return
      if (line.level === 'warn') {
        addBreadcrumb({ level: 'warning', message: String(line.msg), data: { err: line.err, ...tagsOf(line) } })
      } else if (typeof line.err === 'string' && hasRoom()) captureEvent(toEvent(line, line.err))
    },
    close: async (withinMs) => void (await close(withinMs)),
  }
}

type Line = Record<string, unknown>

/** Undefined for what is not ours; a logger must not fail for it. */
function parseLine(text: string): Line | undefined {
  try {
    return JSON.parse(text) as Line
  } catch {
    return undefined
  }
}

function tagsOf(line: Line): Record<string, string> {
  return Object.fromEntries(TAGS.flatMap((name) => (line[name] === undefined ? [] : [[name, String(line[name])]])))
}

function toEvent(line: Line, err: string): Event {
  const [, type = 'Error', value = err] = /^([A-Za-z]*(?:Error|Exception)?): (.*)$/s.exec(err) ?? []
  const frames = Array.isArray(line.at) ? line.at.map((at) => toFrame(String(at))).reverse() : []
  const message = String(line.msg)
  return {
    level: line.level === 'fatal' ? 'fatal' : 'error',
    logger: 'lobu',
    tags: tagsOf(line),
    transaction: message,
    // What failed and how; messages differ by what they name.
    fingerprint: [message, type, String(frames.at(-1)?.function ?? value)],
    exception: { values: [{ type, value, ...(frames.length > 0 ? { stacktrace: { frames } } : {}) }] },
  }
}

/** `at name (file:line:column)`, as the log keeps it. */
function toFrame(at: string): StackFrame {
  const [, name, filename, line, column] = /^at (?:(.*) \()?(.*?):(\d+):(\d+)\)?$/.exec(at) ?? []
  if (filename === undefined) return { function: at }
  return {
    function: name ?? '<anonymous>',
    filename,
    lineno: Number(line),
    colno: Number(column),
    in_app: !filename.includes('node_modules') && !filename.startsWith('node:'),
  }
}

function withoutContext({ request: _request, user: _user, modules: _modules, ...event }: ErrorEvent): ErrorEvent {
  return event
}
