/**
 * Arrays in Postgres' text form, such as `{1,NULL,"a \"b\""}`.
 * The form: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
 */

/** Reads an array of any depth; NULL becomes null, every other element goes through `parse`. */
export function parseArray(text: string, parse: (element: string) => unknown): unknown[] {
  // Bounds other than 1 come first: `[0:1]={…}`.
  let at = text.indexOf('{') + 1

  function readLevel(): unknown[] {
    const values: unknown[] = []
    for (;;) {
      const char = text[at]
      if (char === undefined) throw new Error('an array of the database does not end')
      if (char === '}') {
        at += 1
        return values
      }
      if (char === ',') at += 1
      else if (char === '{') {
        at += 1
        values.push(readLevel())
      } else values.push(char === '"' ? parse(readQuoted()) : readPlain())
    }
  }

  function readQuoted(): string {
    let value = ''
    let from = at + 1
    for (at = from; text[at] !== '"'; at++) {
      if (text[at] === undefined) throw new Error('an array of the database does not end')
      if (text[at] !== '\\') continue
      value += text.slice(from, at)
      at += 1
      from = at
    }
    value += text.slice(from, at)
    at += 1
    return value
  }

  function readPlain(): unknown {
    const from = at
    while (text[at] !== ',' && text[at] !== '}' && text[at] !== undefined) at += 1
    const value = text.slice(from, at)
    return value === 'NULL' ? null : parse(value)
  }

  return readLevel()
}

/** Writes an array of any depth. What is not an array is taken as one that is in text form already. */
export function formatArray(values: unknown, format: (element: unknown) => string): unknown {
  if (!Array.isArray(values)) return values
  return `{${values.map((value) => formatElement(value, format)).join(',')}}`
}

function formatElement(value: unknown, format: (element: unknown) => string): unknown {
  if (value === null) return 'NULL'
  if (value === undefined) throw new Error('undefined is not allowed in an array; write null')
  if (Array.isArray(value)) return formatArray(value, format)
  return `"${format(value).replaceAll(/["\\]/g, '\\$&')}"`
}
