/**
 * Writes docs/openapi.json, the description of the API, from the schemas that validate its requests.
 * `npm run docs` rewrites it; `tests/structure/openapi.test.ts` fails when it is out of date, so that every
 * change of the API shows in a diff.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { createGatewayApp } from '../src/http/app.ts'
import { createOpenApiDocument } from '../src/http/openapi.ts'
import { createLogger } from '../src/lib/logger.ts'
import { VERSION } from '../src/version.ts'

const TARGET = new URL('../docs/openapi.json', import.meta.url)

/** The document as it is kept, and as the source has it now. */
export function renderOpenApi(): { current: string; rendered: string } {
  // No request is made, so the parts behind the routes are not needed.
  const log = createLogger({ level: 'silent', pretty: false })
  const app = createGatewayApp({
    log,
    version: VERSION,
    post: {},
    publicUrl: 'https://gateway',
    trustedOrigins: [],
  } as never)
  const rendered = `${JSON.stringify(createOpenApiDocument(app, { version: VERSION }), null, 2)}\n`
  return { current: readFileSync(TARGET, { encoding: 'utf8', flag: 'a+' }), rendered }
}

if (import.meta.main) writeFileSync(TARGET, renderOpenApi().rendered)
