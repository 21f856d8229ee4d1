import type { UsageRow } from './read-usage.ts'

const HEAD = 'day,agent,model,user,runs,input_tokens,output_tokens,cached_input_tokens,cost_usd,unpriced_runs'

/** Usage as CSV (RFC 4180), piece by piece. Costs are US dollars. */
export async function* toUsageCsv(pages: AsyncIterable<UsageRow[]>): AsyncGenerator<string> {
  yield `${HEAD}\r\n`
  for await (const rows of pages) yield rows.map((row) => `${line(row)}\r\n`).join('')
}

function line(row: UsageRow): string {
  return [
    ...[row.day, cell(row.agentId), cell(row.model), cell(row.userId), row.runs],
    ...[row.inputTokens, row.outputTokens, row.cachedInputTokens, (row.costMicros / 1e6).toFixed(6), row.unpricedRuns],
  ].join(',')
}

/**
 * Names come from callers, and spreadsheets take some beginnings for formulas: such a text gets an apostrophe before it.
 * https://owasp.org/www-community/attacks/CSV_Injection
 */
function cell(text: string): string {
  const safe = /^[\s]*[=+\-@\t\r\n|%]/.test(text) ? `'${text}` : text
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}
