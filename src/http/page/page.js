// The small page of the gateway: what runs, how to call it, and a conversation to try.

import { createChat } from './chat.js'
import { element } from './markdown.js'
import { createTranscript } from './transcript.js'

const STORED_KEY = 'lobu.key'
const HEALTH_EVERY_MS = 10_000
const find = (id) => document.getElementById(id)

let isKeyShown = false
takeKeyFromAddress()

const transcript = createTranscript({ log: find('log'), welcome: find('welcome'), onChange: showStop })
const say = (text) => {
  find('notice').textContent = text
}
const chat = createChat({ transcript, say, getKey: readKey })

// The key

function readKey() {
  return localStorage.getItem(STORED_KEY) ?? ''
}

/** `#key=lobu_…`: a fragment never reaches a server, and it leaves the address bar before anyone copies that. */
function takeKeyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get('key')
  if (!key) return
  localStorage.setItem(STORED_KEY, key.trim())
  history.replaceState(null, '', location.pathname + location.search)
}

function showKey() {
  const key = readKey()
  find('key-form').hidden = key !== ''
  find('show-key').hidden = find('forget-key').hidden = key === ''
  find('show-key').setAttribute('aria-pressed', String(isKeyShown))
  find('show-key').textContent = isKeyShown ? 'Hide key' : 'Show key'
  showSteps()
}

function askForKey(reason) {
  localStorage.removeItem(STORED_KEY)
  showKey()
  say(reason)
  find('key').focus()
}

find('key-form').addEventListener('submit', (event) => {
  event.preventDefault()
  localStorage.setItem(STORED_KEY, find('key').value.trim())
  find('key').value = ''
  say('')
  showKey()
  find('draft').focus()
})

find('show-key').addEventListener('click', () => {
  isKeyShown = !isKeyShown
  showKey()
})

find('forget-key').addEventListener('click', () => {
  chat.startOver()
  isKeyShown = false
  askForKey('The key is forgotten on this device; it still works until it is revoked.')
})

addEventListener('hashchange', () => {
  takeKeyFromAddress()
  showKey()
})

// The conversation

find('composer').addEventListener('submit', (event) => {
  event.preventDefault()
  send()
})

find('draft').addEventListener('keydown', (event) => {
  // `isComposing`: Enter that ends the input of, say, a Japanese word is not meant for us.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
  event.preventDefault()
  send()
})

async function send() {
  const draft = find('draft')
  const text = draft.value.trim()
  if (text === '') return draft.focus()
  if (readKey() === '') return askForKey('An API key is needed to send a message.')
  draft.value = ''
  say('')
  try {
    await chat.send(text)
  } catch (error) {
    draft.value ||= text
    if (error.status === 401) askForKey('The gateway does not accept this key.')
    else say(`Not sent: ${error.message}`)
  }
}

function showStop() {
  find('stop').hidden = transcript.unfinished().length === 0
}

find('stop').addEventListener('click', () => {
  find('draft').focus()
  chat.stop().catch((error) => say(`Not stopped: ${error.message}`))
})

find('fresh').addEventListener('click', () => {
  chat.startOver()
  find('draft').focus()
})

// What runs here

const WORDS = { ok: 'working', starting: 'starting', down: 'down', draining: 'shutting down' }

async function showHealth() {
  const report = await fetch(new URL('health/ready', document.baseURI), { cache: 'no-store' })
    .then((response) => response.json())
    .catch(() => null)
  const pill = find('health')
  const text = report === null ? 'Unreachable' : report.ready ? 'Ready' : 'Not ready'
  pill.dataset.state = report === null ? 'down' : report.ready ? 'ok' : 'starting'
  // Only a change is written, since each one is read out.
  if (pill.textContent !== text) pill.textContent = text
  if (report !== null) showReport(report)
}

function showReport({ version, database, model, subsystems = {} }) {
  const facts = { Version: version, Database: nameDatabase(database), 'Default model': model }
  const shown = Object.entries(facts).filter(([, value]) => typeof value === 'string')
  find('facts').replaceChildren(...shown.flatMap(([name, value]) => [element('dt', name), element('dd', value)]))
  const lines = Object.entries(subsystems).map(([name, { state, detail }]) => {
    const line = element('li', name.replaceAll(/[-_]/g, ' '), element('span', detail ?? WORDS[state] ?? state))
    line.dataset.state = state
    return line
  })
  find('subsystems').replaceChildren(...lines)
}

/** `{kind, version}`; the version is missing while the database does not answer. */
function nameDatabase(database) {
  return [database?.kind, database?.version].filter(Boolean).join(' ') || undefined
}

// How to call it

/** Commands that can be pasted one after the other; the shell carries address, key and conversation from line to line. */
function steps(key) {
  const auth = '  -H "Authorization: Bearer $LOBU_KEY"'
  return [
    [
      'Keep the address and your key',
      [`export LOBU=${new URL('api/v1', document.baseURI)}`, `export LOBU_KEY='${key}'`],
    ],
    [
      'Start a conversation',
      ['ID=$(curl -s -X POST $LOBU/agents \\', `${auth} |`, `  sed 's/.*"agentId":"\\([^"]*\\)".*/\\1/')`],
    ],
    [
      'Send a message',
      [
        'curl -s $LOBU/agents/$ID/messages \\',
        `${auth} \\`,
        "  -H 'Content-Type: application/json' \\",
        `  -d '{"content":"Hello"}'; echo`,
      ],
    ],
    ['Follow the answer', ['curl -N $LOBU/agents/$ID/events \\', auth]],
  ].map(([title, lines]) => ({ title, command: lines.join('\n') }))
}

function showSteps() {
  const key = readKey()
  const masked = isKeyShown || key === '' ? key || 'lobu_…' : `${key.slice(0, 9)}…`
  const real = steps(key || 'lobu_…')
  const items = steps(masked).map(({ title, command }, index) => {
    const copy = element('button', 'Copy')
    copy.type = 'button'
    copy.className = 'quiet'
    copy.setAttribute('aria-label', `Copy: ${title}`)
    copy.addEventListener('click', () => copyText(real[index].command, copy))
    const head = element('div', title, copy)
    head.className = 'row'
    const pre = element('pre', element('code', command))
    pre.tabIndex = 0
    return element('li', head, pre)
  })
  find('steps').replaceChildren(...items)
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    // Plain-http pages off this machine have no clipboard; the older way needs a selection.
    const area = element('textarea', text)
    document.body.append(area)
    area.select()
    document.execCommand('copy')
    area.remove()
    button.focus()
  }
  button.textContent = 'Copied'
  setTimeout(() => {
    button.textContent = 'Copy'
  }, 1_500)
}

showKey()
showHealth()
setInterval(() => document.visibilityState === 'visible' && showHealth(), HEALTH_EVERY_MS)
if (readKey() !== '') chat.restore()
