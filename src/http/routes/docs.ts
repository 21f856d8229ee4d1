import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import type { OpenApiDocument } from '../openapi.ts'
import { type Asset, createAsset, createAssets, PAGE_FOLDER, PAGE_POLICY, sendAsset } from '../page/assets.ts'
import { createRouter, type Router } from '../router.ts'

const VIEWER_FILES = ['swagger-ui.css', 'swagger-ui-bundle.js', 'favicon-32x32.png']
const OWN_FILES = ['docs.css', 'docs.js']

/**
 * The browsable reference at `/api/docs` and the OpenAPI document beside it. The viewer's files come from the installed
 * `swagger-ui-dist`; their path holds its version, so that browsers may keep them. Links are relative, so the same page
 * works under `/lobu`. `document` is asked once, at the first request, when all routes are mounted.
 */
export function docsRoutes(deps: { document(): OpenApiDocument }): Router {
  const { folder, version } = findViewer()
  const viewer = createAssets({ folder, names: VIEWER_FILES })
  const own = createAssets({ folder: PAGE_FOLDER, names: OWN_FILES })
  const html = renderPage(version)
  let json: Asset | undefined

  const router = createRouter()
  router.get('/api/docs', (c) =>
    c.html(html, 200, { 'content-security-policy': PAGE_POLICY, 'cache-control': 'no-cache' }),
  )
  router.get('/api/docs/openapi.json', (c) => {
    json ??= createAsset(new TextEncoder().encode(JSON.stringify(deps.document())), 'application/json')
    return sendAsset(c, json)
  })
  for (const name of OWN_FILES) router.get(`/api/docs/${name}`, (c) => own.send(c, name))
  for (const name of VIEWER_FILES) {
    router.get(`/api/docs/viewer-${version}/${name}`, (c) =>
      viewer.send(c, name, { 'cache-control': 'public, max-age=31536000, immutable' }),
    )
  }
  return router
}

function findViewer(): { folder: URL; version: string } {
  const manifest = pathToFileURL(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'))
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }
  return { folder: new URL('./', manifest), version }
}

/** The page's own address has no slash at its end, so `docs/…` is what lies below it. */
function renderPage(version: string): string {
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Lobu API</title>
    <link rel="icon" href="docs/viewer-${version}/favicon-32x32.png">
    <link rel="stylesheet" href="docs/viewer-${version}/swagger-ui.css">
    <link rel="stylesheet" href="docs/docs.css">
    <script src="docs/viewer-${version}/swagger-ui-bundle.js" defer></script>
    <script src="docs/docs.js" defer></script>
  </head>
  <body>
    <main id="reference"></main>
    <noscript>The reference needs JavaScript. The document itself: <a href="docs/openapi.json">openapi.json</a></noscript>
  </body>
</html>
`
}
