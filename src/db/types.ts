import { formatArray, parseArray } from './arrays.ts'

/** One Postgres type for the driver: which oids it reads and writes, and how. */
interface Codec {
  to: number
  from: number[]
  // biome-ignore lint/suspicious/noExplicitAny: the driver's own type for values of any column
  serialize(value: any): any
  parse(text: string): unknown
}

/**
 * How single values travel. The driver's own rules lose in three places: `bigint` would be text, a JSON text would be
 * encoded once more (drizzle and `${JSON.stringify(x)}::jsonb` send one), and a time given as text would lose its microseconds.
 */
const SCALARS = {
  bigint: { to: 20, from: [20], serialize: String, parse: parseBigint },
  /** A string is taken as JSON text that is ready to be sent. */
  json: {
    to: 114,
    from: [114, 3802],
    serialize: (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value)),
    parse: (text: string): unknown => JSON.parse(text),
  },
  date: { to: 1184, from: [1082, 1184], serialize: formatTime, parse: (text: string) => new Date(text) },
  /** Without time zone: UTC, whatever the zone of this process. */
  timestamp: { to: 1114, from: [1114], serialize: formatTime, parse: (text: string) => new Date(`${text}Z`) },
} satisfies Record<string, Codec>

/**
 * Array types and how their elements travel: [oid of the array, oid of the element, parse, format]. The driver would ask
 * the server for them on each new connection, and a connection that is lost at that moment ends the process: nobody
 * awaits that query (postgres 3.4.9, `fetchArrayTypes`). Arrays of other types come as text.
 */
const ARRAYS: [number, number, (text: string) => unknown, (value: unknown) => string][] = [
  [1000, 16, (text) => text === 't', String],
  [1005, 21, Number, String],
  [1007, 23, Number, String],
  [1016, 20, parseBigint, String],
  [1021, 700, Number, String],
  [1022, 701, Number, String],
  [1028, 26, Number, String],
  [1231, 1700, String, String],
  [1009, 25, String, String],
  [1015, 1043, String, String],
  [1003, 19, String, String],
  [2951, 2950, String, String],
  [1182, 1082, SCALARS.date.parse, (value) => String(formatTime(value))],
  [1185, 1184, SCALARS.date.parse, (value) => String(formatTime(value))],
  [1115, 1114, SCALARS.timestamp.parse, (value) => String(formatTime(value))],
  [199, 114, SCALARS.json.parse, SCALARS.json.serialize],
  [3807, 3802, SCALARS.json.parse, SCALARS.json.serialize],
  [
    1001,
    17,
    (text) => Buffer.from(text.slice(2), 'hex'),
    (value) => `\\x${Buffer.from(value as Uint8Array).toString('hex')}`,
  ],
]

/**
 * Values whose type nobody has named; the server knows it, the driver does not (see `driver-query.ts`). An array is taken as
 * one of Postgres, so a JSON array needs `sql.json` or its text.
 */
const UNKNOWN: Codec = {
  to: 0,
  from: [],
  serialize: (value: unknown) => (Array.isArray(value) ? formatArray(value, formatUnknown) : formatUnknown(value)),
  parse: (text) => text,
}

function formatUnknown(value: unknown): string {
  if (value instanceof Date) return value.toISOString()
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString('hex')}`
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

/** All of it, as the driver's `types` option. */
export const TYPES: Record<string, Codec> = {
  ...SCALARS,
  unknown: UNKNOWN,
  ...Object.fromEntries(
    ARRAYS.map(([oid, , parse, format]) => [
      `array${oid}`,
      {
        to: oid,
        from: [oid],
        serialize: (value: unknown) => formatArray(value, format),
        parse: (text: string) => parseArray(text, parse),
      },
    ]),
  ),
}

/** From the oid of an element to the oid of its array, which `sql.array` looks up. */
export const ARRAY_OIDS: Record<number, number> = Object.fromEntries(ARRAYS.map(([oid, element]) => [element, oid]))

function parseBigint(text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value)) throw new RangeError(`bigint ${text} does not fit into a number`)
  return value
}

function formatTime(value: unknown): unknown {
  return value instanceof Date ? value.toISOString() : value
}
