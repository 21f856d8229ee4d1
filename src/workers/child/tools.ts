import { jsonSchema, type ToolSet, tool } from 'ai'

/** The tools that every agent has. They run in this process and reach nothing outside it. */
export function createTools(): ToolSet {
  return {
    current_time: tool({
      description: 'The current date and time, in UTC and, when a time zone is given, in that zone as well.',
      // A plain JSON schema: zod would add a tenth of a second to the start of every worker.
      inputSchema: jsonSchema<{ timeZone?: string }>({
        type: 'object',
        properties: { timeZone: { type: 'string', description: 'IANA name of a time zone, such as Europe/Zurich' } },
        additionalProperties: false,
      }),
      execute: ({ timeZone }) => currentTime(new Date(), timeZone),
    }),
  }
}

/** @throws RangeError for a zone that does not exist; the model reads it as the tool's error. */
export function currentTime(now: Date, timeZone?: string) {
  if (!timeZone) return { utc: now.toISOString() }
  const local = new Intl.DateTimeFormat('en-GB', { dateStyle: 'full', timeStyle: 'long', timeZone }).format(now)
  return { utc: now.toISOString(), timeZone, local }
}
