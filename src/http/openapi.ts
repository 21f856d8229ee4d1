import type { Router } from './router.ts'

/** An OpenAPI 3.1 document as plain data. https://spec.openapis.org/oas/v3.1.0 */
export type OpenApiDocument = ReturnType<Router['getOpenAPI31Document']>

/** Name of the security scheme; a route that needs a credential says `security: BEARER`. */
export const BEARER = [{ bearer: [] }]
/** What a route says that anybody may call. Each route says one of the two. */
export const OPEN: never[] = []

const DESCRIPTION = `HTTP API of the Lobu gateway. Start a conversation with \`POST /api/v1/agents\`, send messages to it, and follow
its event stream. Everything under \`/api/v1\` also answers under \`/lobu/api/v1\`. Every error is JSON with a stable \`code\`.
The organization is the credential's; the header \`x-lobu-org: <slug>\` makes sure of it (404 unknown, 403 another one).`

/** The document of all routes mounted on `app` so far, made from the schemas that validate their requests. */
export function createOpenApiDocument(app: Router, { version }: { version: string }): OpenApiDocument {
  app.openAPIRegistry.registerComponent('securitySchemes', 'bearer', {
    type: 'http',
    scheme: 'bearer',
    description: 'An API key (`lobu_…`), an OAuth access token (`lobuat_…`) or the session token of a conversation',
  })
  return app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: { title: 'Lobu gateway', version, description: DESCRIPTION },
    servers: [{ url: '/' }],
  })
}
