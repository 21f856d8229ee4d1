import { existsSync } from 'node:fs'
import { type Browser, chromium, type Page } from 'playwright-core'
import { expect, onTestFinished } from 'vitest'

const PATHS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
/** Without the background flags the browser tries to reach its maker at every start. */
const ARGS = [
  ...['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
]

/** The installed Chromium; null, with the reason printed, where there is none. In CI that is a failure. */
export function findChromium(): string | null {
  const found = PATHS.find((path) => existsSync(path))
  if (found) return found
  const reason = `No Chromium at ${PATHS.join(', ')} (apt-get install chromium)`
  if (process.env.CI) throw new Error(reason)
  process.stderr.write(`browser tests are skipped: ${reason}\n`)
  return null
}

export function launchBrowser(executablePath: string): Promise<Browser> {
  return chromium.launch({ executablePath, args: ARGS })
}

/**
 * Opens a page of its own session. When the test is over the page must have asked nobody but `origin` for anything, and
 * have broken neither its content security policy nor itself.
 */
export async function openPage(browser: Browser, origin: string, options: object = {}): Promise<Page> {
  const context = await browser.newContext(options)
  const page = await context.newPage()
  const faults: string[] = []
  page.on('pageerror', (error) => faults.push(error.message))
  page.on('console', (message) => {
    // What the network refuses is the test's own doing; a violated policy and the like are the page's.
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) faults.push(message.text())
  })
  page.on('request', (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(`${origin}/`)) faults.push(request.url())
  })
  onTestFinished(async () => {
    await context.close()
    expect(faults).toEqual([])
  })
  return page
}
