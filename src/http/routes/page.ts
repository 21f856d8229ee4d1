import { createAssets, PAGE_FOLDER, PAGE_POLICY } from '../page/assets.ts'
import { createRouter, type Router } from '../router.ts'

const FILES = ['page.css', 'chat.css', 'page.js', 'chat.js', 'transcript.js', 'client.js', 'markdown.js']

/** The small page at `/`: what runs, how to call it, and a conversation to try. It uses the public API only. */
export function pageRoutes(): Router {
  const assets = createAssets({ folder: PAGE_FOLDER, names: ['index.html', ...FILES] })
  const router = createRouter()
  router.get('/', (c) => assets.send(c, 'index.html', { 'content-security-policy': PAGE_POLICY }))
  for (const name of FILES) router.get(`/${name}`, (c) => assets.send(c, name))
  return router
}
