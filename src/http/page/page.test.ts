import type { Browser, Locator, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { findChromium, launchBrowser, openPage } from '../../../tests/support/browser.ts'
import { createFakeAgentApi, KEY } from '../../../tests/support/fake-agent-api.ts'
import { PATIENT, serve } from '../../../tests/support/http.ts'
import { createOpenApiDocument } from '../openapi.ts'
import { docsRoutes } from '../routes/docs.ts'
import { healthRoutes, type Readiness } from '../routes/health.ts'
import { pageRoutes } from '../routes/page.ts'

const chromium = findChromium()

const REPORT: Readiness = {
  ready: true,
  version: '1.2.3',
  database: { kind: 'postgres', version: '17.2' },
  model: 'demo/demo',
  subsystems: { database: { state: 'ok' }, 'event-log': { state: 'ok', detail: 'last pass 0.2 s ago' } },
}

test('the page is one document with its own files, which browsers ask for by their tag', async () => {
  const { url } = await serve((app) => app.route('/', pageRoutes()))
  const page = await fetch(url)
  expect(page.headers.get('content-security-policy')).toContain(
    "default-src 'none'; script-src 'self'; style-src 'self'",
  )
  const html = await page.text()
  const files = [...html.matchAll(/(?:href|src)="([\w.]+\.(?:css|js))"/g)].map(([, name]) => name)
  expect(files).toEqual(['page.css', 'chat.css', 'page.js'])
  expect(html).not.toMatch(/<script(?![^>]* src=)|<style| style=| on\w+=/)
  for (const name of files) {
    const file = await fetch(`${url}/${name}`)
    const headers = { 'if-none-match': file.headers.get('etag') ?? '' }
    expect((await fetch(`${url}/${name}`, { headers })).status).toBe(304)
  }
  expect((await fetch(`${url}/assets.ts`)).status).toBe(404)
})

describe.skipIf(chromium === null)('in a browser', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launchBrowser(chromium ?? '')
  })
  afterAll(() => browser.close())

  async function visit({ fragment = `#key=${KEY}`, report = REPORT } = {}) {
    const api = createFakeAgentApi()
    const { url } = await serve((app) => {
      api.routes(app)
      app.route('/', healthRoutes({ version: '1.2.3', readiness: async () => report }))
      app.route('/', docsRoutes({ document: () => createOpenApiDocument(app, { version: '1.2.3' }) }))
      app.route('/', pageRoutes())
    })
    const page = await openPage(browser, url)
    await page.goto(`${url}/${fragment}`)
    return { api, url, page }
  }

  async function ask(page: Page, api: ReturnType<typeof createFakeAgentApi>, text: string) {
    const count = api.messages().length
    await page.getByRole('textbox', { name: 'Message' }).fill(text)
    await page.keyboard.press('Enter')
    await vi.waitUntil(() => api.messages().length > count && api.opened.length > 0, PATIENT)
    return String(api.messages().at(-1)?.messageId)
  }

  const answers = (page: Page) => page.getByRole('article', { name: 'Agent' })
  const shows = (locator: Locator, text: string) =>
    expect.poll(async () => (await locator.textContent())?.trim(), PATIENT).toBe(text)

  test('the key comes in the fragment, leaves the address bar, and stays for the next visit', async () => {
    const { page, url, api } = await visit()
    expect(page.url()).toBe(`${url}/`)
    await page.reload()
    await ask(page, api, 'hello')
    expect(api.messages()).toMatchObject([{ content: 'hello' }])
  })

  test('without a key the page asks for one, and again when it is refused', async () => {
    const { page, api } = await visit({ fragment: '' })
    const field = page.getByLabel('API key')
    await field.fill('lobu_wrong')
    await page.keyboard.press('Enter')
    await page.getByRole('textbox', { name: 'Message' }).fill('hello')
    await page.keyboard.press('Enter')
    await page.getByText('The gateway does not accept this key.').waitFor()
    expect(await page.evaluate('document.activeElement.id')).toBe('key')
    await field.fill(KEY)
    await page.keyboard.press('Enter')
    expect(await page.getByRole('textbox', { name: 'Message' }).inputValue()).toBe('hello')
    await page.getByRole('button', { name: 'Send', exact: true }).click()
    await expect.poll(() => api.messages().length, PATIENT).toBe(1)
  })

  test('it says what runs here, and what is not ready', async () => {
    const report: Readiness = structuredClone(REPORT)
    const { page } = await visit({ report })
    await page.getByText('postgres 17.2').waitFor()
    await page.getByText('demo/demo').waitFor()
    await page.getByText('last pass 0.2 s ago').waitFor()
    await shows(page.locator('#health'), 'Ready')
    report.ready = false
    report.subsystems.database = { state: 'down' }
    await page.reload()
    await shows(page.locator('#health'), 'Not ready')
    await page.getByText('database').getByText('down').waitFor()
  })

  test('commands to copy name this origin and the key, which is not shown until asked for', async () => {
    const { page, url } = await visit()
    const steps = page.locator('#steps')
    expect(await steps.textContent()).toContain(`export LOBU=${url}/api/v1\n`)
    expect(await steps.textContent()).not.toContain(KEY)
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write'], { origin: url })
    await page.getByRole('button', { name: 'Copy: Keep the address' }).click()
    expect(await page.evaluate('navigator.clipboard.readText()')).toBe(
      `export LOBU=${url}/api/v1\nexport LOBU_KEY='${KEY}'`,
    )
    await page.getByRole('button', { name: 'Show key' }).click()
    expect(await steps.textContent()).toContain(KEY)
  })

  test('an answer grows as it comes, and ends as its final text', async () => {
    const { page, api } = await visit()
    const messageId = await ask(page, api, 'hello')
    const text = answers(page).locator('.text')
    api.emit('output', { messageId, content: 'Good ' })
    await shows(text, 'Good')
    api.emit('tool-use', { messageId, name: 'search', phase: 'start', summary: 'weather' })
    await page.getByText('search: weather').waitFor()
    api.emit('output', { messageId, content: 'mornin' })
    await shows(text, 'Good mornin')
    expect(await answers(page).getAttribute('aria-busy')).toBe('true')
    api.emit('complete', {
      messageId,
      processedMessageIds: [messageId],
      finalText: 'Good morning.',
      status: 'completed',
    })
    await shows(text, 'Good morning.')
    expect(await answers(page).getAttribute('aria-busy')).toBeNull()
    expect(await page.getByRole('button', { name: 'Stop' }).isVisible()).toBe(false)
  })

  test('Markdown is drawn, and nothing in an answer becomes markup of the page', async () => {
    const { page, api } = await visit()
    const messageId = await ask(page, api, '<b>hello</b>')
    const finalText = [
      '# Plan\nSome **bold** and `code` and [a link](https://example.org/x).',
      '- one\n- two **2**\n\n3. three',
      '```js\nconst a = "<i>"\n\n**not bold**\n```',
      '<img src=x onerror="document.title=1"> [bad](javascript:alert(1))',
    ].join('\n\n')
    api.emit('complete', { messageId, finalText, status: 'completed' })
    const text = answers(page).locator('.text')
    await text.locator('h4').waitFor()
    const html = await text.evaluate((node) => node.innerHTML)
    expect(html).toBe(
      '<h4>Plan</h4><p>Some <strong>bold</strong> and <code>code</code> and ' +
        '<a href="https://example.org/x" target="_blank" rel="noopener noreferrer">a link</a>.</p>' +
        '<ul><li>one</li><li>two <strong>2</strong></li></ul><ol start="3"><li>three</li></ol>' +
        '<pre tabindex="0"><code>const a = "&lt;i&gt;"\n\n**not bold**</code></pre>' +
        '<p>&lt;img src=x onerror="document.title=1"&gt; [bad](javascript:alert(1))</p>',
    )
    await shows(page.getByRole('article', { name: 'You' }), '<b>hello</b>')
  })

  test('a broken connection goes on where it broke, with nothing lost or doubled', async () => {
    const { page, api } = await visit()
    const messageId = await ask(page, api, 'count')
    const text = answers(page).locator('.text')
    api.emit('output', { messageId, content: 'one ' })
    await shows(text, 'one')
    api.cutStreams()
    api.emit('output', { messageId, content: 'two ' })
    api.emit('output', { messageId, content: 'three' })
    await shows(text, 'one two three')
    expect(api.opened.map(({ lastEventId }) => lastEventId)).toEqual([undefined, '1'])
  })

  test('after a reload in the middle of an answer the history is shown and the answer goes on', async () => {
    const { page, api } = await visit()
    const first = await ask(page, api, 'first')
    api.emit('complete', { messageId: first, finalText: 'First answer', status: 'completed' })
    await shows(answers(page).locator('.text'), 'First answer')
    const second = await ask(page, api, 'second')
    api.emit('output', { messageId: second, content: 'Second ' })
    await page.reload()
    await expect
      .poll(() => answers(page).locator('.text').allTextContents(), PATIENT)
      .toEqual(['First answer', 'Second '])
    expect(await page.getByRole('article', { name: 'You' }).allTextContents()).toEqual(['first', 'second'])
    api.emit('output', { messageId: second, content: 'answer' })
    api.emit('complete', { messageId: second, finalText: 'Second answer', status: 'completed' })
    await expect
      .poll(() => answers(page).locator('.text').allTextContents(), PATIENT)
      .toEqual(['First answer', 'Second answer'])
    expect(api.calls.filter(({ path }) => path === '/api/v1/agents').map(({ body }) => body.thread)).toHaveLength(2)
  })

  test('after a reload it still says which turns were stopped and which failed, and why', async () => {
    const { page, api } = await visit()
    const stopped = await ask(page, api, 'stop me')
    api.emit('complete', { messageId: stopped, finalText: 'Once upon', status: 'cancelled' })
    await answers(page).getByText('Stopped').waitFor()
    const failed = await ask(page, api, 'fail')
    api.emit('error', { messageId: failed, error: 'The model cannot be reached', code: 'model_unavailable' })
    api.emit('complete', { messageId: failed, finalText: '', status: 'failed' })
    await answers(page).getByText('The model cannot be reached').waitFor()
    const shown = () => page.getByRole('article').allTextContents()
    const before = await shown()
    expect(before).toEqual(['stop me', 'Once uponStopped', 'fail', 'The model cannot be reached'])
    await page.reload()
    await expect.poll(shown, PATIENT).toEqual(before)
  })

  // The page reads the history only once its stream is connected; the other way round this answer would be in neither.
  test('an answer that ends while the page is being reloaded is not missed', async () => {
    const { page, api } = await visit()
    const messageId = await ask(page, api, 'hello')
    api.emit('output', { messageId, content: 'Whole' })
    api.hooks.beforeStream = async () => {
      await vi.waitUntil(() => api.historyReads() > 0, { timeout: 1_000 }).catch(() => {})
      api.emit('complete', { messageId, finalText: 'Whole answer', status: 'completed' })
    }
    await page.reload()
    await expect.poll(() => answers(page).locator('.text').allTextContents(), PATIENT).toEqual(['Whole answer'])
  })

  test('Stop cancels the answer', async () => {
    const { page, api } = await visit()
    const messageId = await ask(page, api, 'long story')
    api.emit('output', { messageId, content: 'Once' })
    await page.getByRole('button', { name: 'Stop' }).click()
    await answers(page).getByText('Stopped').waitFor()
    expect(api.calls.at(-1)).toMatchObject({ path: '/api/v1/agents/conv_1/cancel', body: { messageId } })
    expect(await page.getByRole('button', { name: 'Stop' }).isVisible()).toBe(false)
  })

  test('an error is shown with the turn it ended', async () => {
    const { page, api } = await visit()
    const messageId = await ask(page, api, 'hello')
    api.emit('error', { messageId, error: 'The model cannot be reached', code: 'model_unavailable' })
    api.emit('complete', { messageId, finalText: '', status: 'failed' })
    await answers(page).getByText('The model cannot be reached').waitFor()
    expect(await answers(page).locator('.fault').count()).toBe(1)
  })

  test('a new conversation begins empty and on a thread of its own', async () => {
    const { page, api } = await visit()
    await ask(page, api, 'first')
    await page.getByRole('button', { name: 'New conversation' }).click()
    expect(await page.getByRole('article').count()).toBe(0)
    await ask(page, api, 'second')
    const threads = api.calls.filter(({ path }) => path === '/api/v1/agents').map(({ body }) => body.thread)
    expect(new Set(threads).size).toBe(2)
  })

  test('a position that is no longer kept is answered from the history', async () => {
    const { page, api } = await visit()
    const messageId = await ask(page, api, 'hello')
    api.emit('output', { messageId, content: 'half an ' })
    await shows(answers(page).locator('.text'), 'half an')
    api.notify('reset', { oldest: 7, snapshot: null })
    await expect.poll(() => api.opened.length, PATIENT).toBe(2)
    api.emit('complete', { messageId, finalText: 'half an answer', status: 'completed' })
    await expect.poll(() => answers(page).locator('.text').allTextContents(), PATIENT).toEqual(['half an answer'])
  })

  test('a token that has run out is replaced without a word', async () => {
    const { page, api } = await visit()
    const messageId = await ask(page, api, 'hello')
    api.emit('complete', { messageId, finalText: 'Hi', status: 'completed' })
    api.expireToken()
    await ask(page, api, 'still there?')
    expect(api.messages()).toHaveLength(2)
  })

  test('Shift and Enter make a new line, and the keyboard alone is enough', async () => {
    const { page, api } = await visit()
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await page.keyboard.type('one')
    await page.keyboard.press('Shift+Enter')
    await page.keyboard.type('two')
    await page.keyboard.press('Enter')
    await expect.poll(() => api.messages(), PATIENT).toMatchObject([{ content: 'one\ntwo' }])
  })

  test('when a phone shows its keyboard, the end of the conversation stays in sight', async () => {
    const { page, api } = await visit()
    await page.setViewportSize({ width: 390, height: 844 })
    const messageId = await ask(page, api, 'hello')
    const finalText = `${'a paragraph\n\n'.repeat(40)}the end`
    api.emit('complete', { messageId, finalText, status: 'completed' })
    const isEndInSight = () =>
      page.evaluate(
        '((log) => log.scrollHeight - log.scrollTop - log.clientHeight < 2)(document.getElementById("log"))',
      )
    await page.getByText('the end').waitFor()
    await expect.poll(isEndInSight, PATIENT).toBe(true)
    const tall = await page.locator('#log').boundingBox()
    await page.setViewportSize({ width: 390, height: 500 })
    await expect
      .poll(async () => (await page.locator('#log').boundingBox())!.height, PATIENT)
      .toBeLessThan(tall!.height)
    await expect.poll(isEndInSight, PATIENT).toBe(true)

    // Who has scrolled back to read is left alone.
    await page.evaluate('document.getElementById("log").scrollTop = 0')
    await page.setViewportSize({ width: 390, height: 844 })
    await expect.poll(async () => (await page.locator('#log').boundingBox())!.height, PATIENT).toBe(tall!.height)
    expect(await page.evaluate('document.getElementById("log").scrollTop')).toBe(0)
  })

  test('the API reference is drawn under the same policy', async () => {
    const { page, url } = await visit()
    await page.goto(`${url}/lobu/api/docs`)
    await page.getByText('This replica can take work').waitFor()
  })
})
