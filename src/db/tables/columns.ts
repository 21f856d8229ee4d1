import { bigint, customType, timestamp } from 'drizzle-orm/pg-core'

/** A moment, with its zone. */
export const at = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' })
/** A whole number that JavaScript can still count: 2^53 is out of reach of every counter here. */
export const int8 = (name: string) => bigint(name, { mode: 'number' })
export const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
