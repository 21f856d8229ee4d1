import type { Readable } from 'node:stream'
import { Busboy, type BusboyFileStream, type BusboyInstance } from '@fastify/busboy'
import type { Context } from 'hono'
import { AppError } from '../lib/errors.ts'
import { bodyStream, brokenOff } from './body.ts'
import type { Env } from './env.ts'

const MB = 1_048_576

export interface MultipartLimits {
  filesMax: number
  fileBytesMax: number
  /** Of all files together. */
  totalBytesMax: number
  /** Of the whole body, however steadily it comes. */
  msMax: number
}

export const MULTIPART_LIMITS: MultipartLimits = {
  filesMax: 10,
  fileBytesMax: 50 * MB,
  totalBytesMax: 100 * MB,
  // Files that no message has named are removed after an hour.
  msMax: 1_800_000,
}
const FIELDS_MAX = 50
const FIELD_BYTES_MAX = MB
/** For boundaries, part headers and fields, beside the files. */
const FRAMING_BYTES_MAX = 2 * MB
/** An upload may take long, but not without a byte arriving for this long. */
const SILENCE_MS_MAX = 30_000
const NAME_CHARS_MAX = 255

export interface IncomingFile {
  /** The client's file name without folders and control characters; never empty, never to be used as a path. */
  name: string
  /** As the client says; nothing has looked into the file. */
  mediaType: string
}

/** Takes one file. Must stand being left in the middle: the iterable throws when the upload fails. */
export type OnFile = (file: IncomingFile, bytes: AsyncIterable<Buffer>) => Promise<void>

/** Whether the request's body is to be read by `readMultipart`. */
export function isMultipart(c: Context<Env>): boolean {
  return /^multipart\/form-data\b/i.test(c.req.header('content-type') ?? '')
}

/**
 * Reads a multipart body as it comes. Each file goes to `onFile` in pieces, one file after the other in the order of
 * the body, no faster than `onFile` takes them; a file that it does not read to its end is skipped. Resolves with the
 * plain fields when the body is complete and every `onFile` has resolved.
 *
 * @throws AppError 'payload_too_large' over a limit, 'invalid_request' for a broken or stalled body, 'unsupported_media_type',
 *   or what `onFile` threw. By then `onFile` has ended for every file it was given; files it has stored are the caller's
 *   to remove.
 */
export async function readMultipart(
  c: Context<Env>,
  { onFile, limits = MULTIPART_LIMITS }: { onFile: OnFile; limits?: MultipartLimits },
): Promise<{ fields: Record<string, string> }> {
  const bytesMax = limits.totalBytesMax + FRAMING_BYTES_MAX
  if (!isMultipart(c)) throw new AppError('unsupported_media_type', 'Send the body as multipart/form-data')
  if (Number(c.req.header('content-length') ?? 0) > bytesMax) throw tooLarge(limits)
  const parser = createParser(c.req.header('content-type') ?? '', limits)
  const upload = createUpload(parser, { onFile, limits })
  const stopFeeding = feed(bodyStream(c), parser, {
    onBytes: (bytes) => bytes > bytesMax && upload.fail(tooLarge(limits)),
    msMax: limits.msMax,
    onBroken: upload.fail,
  })
  await upload.parsed
  stopFeeding()
  await upload.settled()
  return { fields: upload.fields }
}

/** What goes on while one body is read: its fields, the queue of files, and the first thing that went wrong. */
function createUpload(parser: BusboyInstance, { onFile, limits }: { onFile: OnFile; limits: MultipartLimits }) {
  const fields: Record<string, string> = Object.create(null)
  const open = new Set<BusboyFileStream>()
  let endParsing = () => {}
  const parsed = new Promise<void>((resolve) => {
    endParsing = resolve
  })
  let failure: Error | undefined
  let files = Promise.resolve()
  let fileBytes = 0

  function fail(error: Error) {
    failure ??= error
    for (const stream of open) stream.destroy(failure)
    endParsing()
  }

  async function* readFile(stream: BusboyFileStream, name: string): AsyncGenerator<Buffer> {
    if (failure) throw failure
    for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
      fileBytes += chunk.length
      if (fileBytes > limits.totalBytesMax) fail(tooLarge(limits))
      if (failure) throw failure
      yield chunk
    }
    // A file that was cut off ends like a whole one.
    if (stream.truncated) fail(fileTooLarge(name, limits))
    if (failure) throw failure
  }

  async function takeFile(stream: BusboyFileStream, { fileName, mediaType }: { fileName: string; mediaType: string }) {
    if (failure) return
    const file = { name: cleanName(fileName), mediaType }
    const bytes = readFile(stream, file.name)
    // Its own errors and those it met in the iterable both end here.
    await (fileName ? onFile(file, bytes) : takeUnnamed(file, bytes)).catch(fail)
    open.delete(stream)
    stream.resume()
  }

  /** A web form sends its file field also when nothing was chosen: without a name and without a byte. */
  async function takeUnnamed(file: IncomingFile, bytes: AsyncGenerator<Buffer>) {
    const first = await bytes.next()
    if (!first.done) await onFile(file, startWith(first.value, bytes))
  }

  parser.on('file', (_field, stream, fileName, _encoding, mediaType) => {
    if (failure) return void stream.resume()
    open.add(stream)
    stream.on('error', (error) => fail(failure ?? malformed(error)))
    stream.on('limit', () => fail(fileTooLarge(fileName, limits)))
    files = files.then(() => takeFile(stream, { fileName, mediaType }))
  })
  parser.on('field', (name, value, _nameCut, isCut) => {
    if (isCut)
      fail(new AppError('payload_too_large', `Field ${name.slice(0, 100)} is larger than ${FIELD_BYTES_MAX} bytes`))
    if (name in fields) fail(new AppError('invalid_request', `${name.slice(0, 100)}: is given twice`))
    fields[name] = value
  })
  parser.on('filesLimit', () => fail(new AppError('payload_too_large', `More than ${limits.filesMax} files`)))
  parser.on('fieldsLimit', () => fail(new AppError('payload_too_large', `More than ${FIELDS_MAX} fields`)))
  parser.on('error', (error) => fail(malformed(error)))
  parser.on('finish', () => endParsing())

  return {
    fields,
    fail,
    /** Resolves when there is nothing more to parse, because the body is whole or because something failed. */
    parsed,
    /** Waits for every file that was begun; throws the failure. */
    async settled() {
      await files
      if (failure) throw failure
    },
  }
}

/** Feeds the body to the parser, which asks for no more than the readers of the files can take. Returns how to stop. */
function feed(
  source: Readable,
  parser: BusboyInstance,
  on: { onBytes(total: number): void; onBroken(error: Error): void; msMax: number },
): () => void {
  let bytes = 0
  const timer = setTimeout(() => {
    // Silence that our own reader causes is not the client's.
    if (parser.writableNeedDrain) timer.refresh()
    else on.onBroken(new AppError('invalid_request', `No byte of the body came for ${SILENCE_MS_MAX / 1000} seconds`))
  }, SILENCE_MS_MAX)
  const end = setTimeout(() => on.onBroken(tooLong(on.msMax)), on.msMax)
  const onData = (chunk: Buffer) => {
    timer.refresh()
    bytes += chunk.length
    on.onBytes(bytes)
  }
  const onClose = () => {
    if (!source.readableEnded) on.onBroken(brokenOff())
  }
  // A client may be gone before its handler gets here, and its stream says so only once.
  if (source.destroyed) onClose()
  source.on('data', onData).on('close', onClose).on('error', onClose).pipe(parser)
  return () => {
    clearTimeout(timer)
    clearTimeout(end)
    source.off('data', onData).off('close', onClose).unpipe(parser)
  }
}

async function* startWith(first: Buffer, rest: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  yield first
  yield* rest
}

function createParser(contentType: string, limits: MultipartLimits): BusboyInstance {
  try {
    return new Busboy({
      headers: { 'content-type': contentType },
      limits: {
        files: limits.filesMax,
        fileSize: limits.fileBytesMax,
        fields: FIELDS_MAX,
        fieldSize: FIELD_BYTES_MAX,
        headerPairs: 20,
        headerSize: 8_192,
      },
    })
  } catch (error) {
    throw malformed(error)
  }
}

function tooLarge({ totalBytesMax }: MultipartLimits) {
  return new AppError('payload_too_large', `All files together may have ${totalBytesMax / MB} MB`)
}

function tooLong(msMax: number) {
  return new AppError('invalid_request', `The body did not arrive within ${msMax / 60_000} minutes`)
}

function fileTooLarge(name: string, { fileBytesMax }: MultipartLimits) {
  return new AppError('payload_too_large', `${cleanName(name)} is larger than ${fileBytesMax / MB} MB`)
}

function malformed(error: unknown): AppError {
  const reason = error instanceof Error ? `: ${error.message}` : ''
  return new AppError('invalid_request', `The multipart body is malformed${reason}`, { cause: error })
}

function cleanName(name: string | undefined): string {
  const clean = (name ?? '')
    .toWellFormed()
    .replace(/[\p{Cc}/\\]/gu, '')
    .trim()
    .slice(0, NAME_CHARS_MAX)
  return clean || 'file'
}
