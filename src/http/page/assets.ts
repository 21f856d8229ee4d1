import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { Context } from 'hono'

const TYPES: Record<string, string> = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  png: 'image/png',
}

/** Content security policy of our HTML pages: nothing from elsewhere, nothing inline. https://www.w3.org/TR/CSP3/ */
export const PAGE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'self'",
  "frame-ancestors 'none'",
].join('; ')

/** Folder of our own pages: this file's own in the source tree, `page/` beside the bundle in `dist/`. */
export const PAGE_FOLDER = new URL(import.meta.url.endsWith('/page/assets.ts') ? './' : './page/', import.meta.url)

/** Bytes that browsers may keep and ask about by their tag. */
export interface Asset {
  bytes: Uint8Array<ArrayBuffer>
  type: string
  etag: string
}

export interface Assets {
  /** Answers with one of the folder's known files, or 304 when the browser has it. */
  send(c: Context, name: string, headers?: Record<string, string>): Promise<Response>
}

/** Serves the named files of one folder, and no others. Each is read once, when it is first asked for, and kept. */
export function createAssets({ folder, names }: { folder: URL; names: readonly string[] }): Assets {
  const files = new Map<string, Promise<Asset>>()

  function load(name: string) {
    let file = files.get(name)
    if (!file) {
      file = readAsset(folder, name)
      files.set(name, file)
      // A read that failed, for want of descriptors perhaps, is tried again by the next request.
      file.catch(() => files.delete(name))
    }
    return file
  }

  return {
    async send(c, name, headers) {
      if (!names.includes(name)) return c.notFound()
      return sendAsset(c, await load(name), headers)
    },
  }
}

/** Answers with an asset, or 304 when the browser has it. Unless `headers` say otherwise, browsers ask every time. */
export function sendAsset(c: Context, { bytes, type, etag }: Asset, headers: Record<string, string> = {}): Response {
  const common = { etag, 'cache-control': 'no-cache', ...headers }
  if (c.req.header('if-none-match')?.includes(etag)) return c.body(null, 304, common)
  return c.body(bytes, 200, { 'content-type': type, ...common })
}

/** Gives bytes the tag that changes with them. */
export function createAsset(bytes: Uint8Array<ArrayBuffer>, type: string): Asset {
  return { bytes, type, etag: `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"` }
}

async function readAsset(folder: URL, name: string): Promise<Asset> {
  const bytes = new Uint8Array(await readFile(new URL(name, folder)))
  return createAsset(bytes, TYPES[name.split('.').at(-1) ?? ''] ?? 'application/octet-stream')
}
