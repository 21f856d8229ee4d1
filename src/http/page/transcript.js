// What a conversation looks like: turns in the log, drawn from texts and events. It knows nothing of the network.

import { element, renderMarkdown } from './markdown.js'

/** A reader this close to the end wants to stay at the end. */
const NEAR_END_PX = 80

/** Draws into `log`; `welcome` is shown while there is nothing else. `onChange` is told when a turn begins or ends. */
export function createTranscript({ log, welcome, onChange }) {
  let turns = new Map()
  let dirty = new Set()
  let isAtEnd = true

  // The log shrinks when a phone shows its keyboard; who read the end goes on reading it.
  log.addEventListener('scroll', () => {
    isAtEnd = isNearEnd()
  })
  new ResizeObserver(() => {
    if (isAtEnd) log.scrollTop = log.scrollHeight
  }).observe(log)

  function isNearEnd() {
    return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX
  }

  function add(...nodes) {
    const stays = isNearEnd()
    welcome.hidden = true
    for (const node of nodes) if (!node.isConnected) log.append(node)
    if (stays) log.scrollTop = log.scrollHeight
  }

  /** Redraws at most once for each frame of the screen, however fast the deltas come. */
  function redraw(turn) {
    if (dirty.size === 0) requestAnimationFrame(drawDirty)
    dirty.add(turn)
  }

  function drawDirty() {
    const stays = isNearEnd()
    for (const { body, text } of dirty) body.replaceChildren(renderMarkdown(text))
    dirty.clear()
    if (stays) log.scrollTop = log.scrollHeight
  }

  /** The answer to a message; made when it is first spoken of, in the place of what history showed for it. */
  function answerTo(messageId) {
    const known = turns.get(messageId)
    if (known) return known
    const turn = createAnswer()
    turns.set(messageId, turn)
    const question = [...log.querySelectorAll('.user')].find((node) => node.dataset.id === messageId)
    for (let next = question?.nextElementSibling; next?.matches('.agent.told'); next = question.nextElementSibling)
      next.remove()
    if (question) question.after(turn.node)
    add(turn.node)
    onChange()
    return turn
  }

  function finish(turn, { finalText, status }) {
    turn.done = true
    turn.node.classList.remove('busy')
    turn.node.removeAttribute('aria-busy')
    turn.state.textContent = status === 'cancelled' ? 'Stopped' : ''
    for (const item of turn.tools.querySelectorAll('[data-state="starting"]')) item.dataset.state = 'down'
    if (status === 'failed' && !turn.fault) fault(turn, 'This turn failed')
    if (typeof finalText === 'string') turn.text = finalText
    redraw(turn)
    onChange()
  }

  /** A message that was answered together with another one gets no answer of its own. */
  function merge(messageId) {
    const turn = turns.get(messageId)
    if (turn?.text !== '') return
    turn.done = true
    turn.node.remove()
    onChange()
  }

  function fault(turn, text) {
    turn.fault = element('p', text)
    turn.fault.className = 'fault'
    turn.node.append(turn.fault)
  }

  function useTool(turn, { name, phase, summary }) {
    const line =
      phase === 'end' && turn.tools.querySelector(`li[data-tool="${CSS.escape(name)}"]:not([data-state="ok"])`)
    const item = line || turn.tools.appendChild(element('li'))
    item.dataset.tool = name
    item.dataset.state = phase === 'end' ? 'ok' : 'starting'
    item.textContent = summary ? `${name}: ${summary}` : name
    add()
  }

  const on = {
    output(turn, { content }) {
      turn.text += content
      turn.state.textContent = 'Writing'
      redraw(turn)
    },
    status(turn, { status }) {
      turn.state.textContent = `Working, ${Math.round(status.elapsedSeconds)} s`
    },
    'tool-use': useTool,
    'link-button'(turn, { url, label }) {
      if (!/^https?:/.test(url)) return
      const link = element('a', label)
      Object.assign(link, { href: url, target: '_blank', rel: 'noopener noreferrer' })
      turn.node.append(element('p', link))
    },
    ephemeral: (turn, { content }) => turn.node.append(element('p', content)),
    error: (turn, { error }) => fault(turn, error),
    complete: finish,
  }

  return {
    /** What the visitor said. */
    addQuestion(messageId, text) {
      const node = createTurn('user', 'You')
      node.dataset.id = messageId
      node.querySelector('.text').textContent = text
      add(node)
      log.scrollTop = log.scrollHeight
      return node
    },
    /** A whole answer from the past. */
    addAnswer(text) {
      const node = createTurn('agent told', 'Agent')
      node.querySelector('.text').append(renderMarkdown(text))
      add(node)
    },
    /** How a turn of the past ended that has no whole answer: below what there is of one. */
    addEnd({ status, error }) {
      const last = log.lastElementChild
      const node = last?.matches('.agent.told') ? last : createTurn('agent told', 'Agent')
      const line = element('p', status === 'cancelled' ? 'Stopped' : (error?.message ?? 'This turn failed'))
      line.className = status === 'cancelled' ? 'state' : 'fault'
      node.append(line)
      add(node)
    },
    answerTo,
    /** Applies one event of the stream that speaks of a message. Unknown events change nothing. */
    apply(name, data) {
      if (!Object.hasOwn(on, name) || typeof data.messageId !== 'string') return
      const turn = answerTo(data.messageId)
      if (turn.done) return
      on[name](turn, data)
      if (name === 'complete') for (const id of data.processedMessageIds ?? []) if (id !== data.messageId) merge(id)
    },
    /** Takes an answer back that will not come. */
    drop(messageId) {
      turns.get(messageId)?.node.remove()
      turns.delete(messageId)
      onChange()
    },
    /** Ids of messages whose answers have not ended. */
    unfinished: () => [...turns].filter(([, turn]) => !turn.done).map(([id]) => id),
    clear() {
      for (const node of log.querySelectorAll('.turn')) node.remove()
      turns = new Map()
      dirty = new Set()
      welcome.hidden = false
      onChange()
    },
  }
}

function createTurn(kind, speaker) {
  const text = element('div')
  text.className = 'text'
  const node = element('article', text)
  node.className = `turn ${kind}`
  node.setAttribute('aria-label', speaker)
  return node
}

function createAnswer() {
  const node = createTurn('agent busy', 'Agent')
  // Screen readers wait for the whole answer instead of reading its pieces.
  node.setAttribute('aria-busy', 'true')
  const tools = element('ul')
  tools.className = 'tools'
  const state = element('p', 'Thinking')
  state.className = 'state'
  node.prepend(tools)
  node.append(state)
  return { node, tools, state, body: node.querySelector('.text'), text: '', done: false, fault: null }
}
