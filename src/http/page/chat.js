// One conversation through the public API: create or resume it, send, follow, stop.

import { ApiError, call, follow, pause, randomId } from './client.js'

const STORED = 'lobu.conversation'
const SEND_TRIES = 4
/** Of a long conversation only the end is drawn. */
const SHOWN_MAX = 400

/**
 * @param transcript where it is shown; @param say shows one line of news below it; @param getKey the API key.
 * The conversation outlives a reload: its id is kept for the life of the tab.
 */
export function createChat({ transcript, say, getKey }) {
  let conversation = readStored()
  let opening
  let following
  let sending = Promise.resolve()

  /** Creates the conversation or, with the same thread, gets a new token for it. */
  function open() {
    opening ??= create().finally(() => {
      opening = undefined
    })
    return opening
  }

  async function create() {
    const thread = conversation?.thread ?? `page-${randomId()}`
    const { agentId, token } = await call('agents', { token: getKey(), body: { thread } })
    conversation = { id: agentId, token, thread }
    sessionStorage.setItem(STORED, JSON.stringify(conversation))
  }

  /** Calls below the conversation's own path; a token that has run out is replaced once. */
  async function callHere(path, options = {}) {
    if (!conversation) await open()
    const request = () => call(`agents/${conversation.id}/${path}`, { ...options, token: conversation.token })
    try {
      return await request()
    } catch (error) {
      if (error.status !== 401) throw error
      await open()
      return request()
    }
  }

  /** Keeps the event stream open until the conversation is left. */
  function startFollowing(receive = transcript.apply) {
    if (following) return
    const mine = new AbortController()
    following = mine
    let isConnected = false
    const leave = (news) => {
      mine.abort()
      if (following === mine) following = undefined
      if (news) say(news)
    }
    const again = () => {
      leave()
      restore()
    }
    const event = (name, data) => {
      if (name === 'closed') return leave(closing(data))
      if (name === 'reset') return again()
      if (name === 'connected') {
        isConnected = true
        say('')
      }
      receive(name, data)
    }
    const on = { event, lost: () => say('The connection is lost; trying again.') }
    follow(`agents/${conversation.id}/events`, { token: conversation.token, signal: mine.signal, on }).catch(
      (error) => {
        // A token lasts a day. What happened since it ran out is in the history.
        if (error.status === 401 && isConnected) again()
        else leave(error.message)
      },
    )
  }

  function closing({ reason }) {
    if (reason !== 'ended') return 'This conversation goes on in another window.'
    forget()
    return 'This conversation has ended; the next message starts a new one.'
  }

  /** Shows what was said before, then goes on with the turn that is still unfinished. */
  async function restore() {
    if (!conversation) return
    try {
      await open()
      const { connected, release } = holdEvents()
      try {
        await Promise.race([connected, pause(3_000)])
        const messages = await readHistory()
        transcript.clear()
        showHistory(messages)
      } finally {
        release()
      }
    } catch (error) {
      if (error.status === 404) forget()
      say(error.message)
    }
  }

  /**
   * Opens the stream and keeps its events back until they are released. The history is read once it is connected, so that
   * an answer that ends meanwhile is in one of the two.
   */
  function holdEvents() {
    let held = []
    const connected = new Promise((resolve) => {
      startFollowing((name, data) => {
        if (held) held.push([name, data])
        else transcript.apply(name, data)
        resolve()
      })
    })
    const release = () => {
      for (const [name, data] of held) transcript.apply(name, data)
      held = null
    }
    return { connected, release }
  }

  /** The end of the history, which the API gives from its beginning. */
  async function readHistory() {
    let messages = []
    let cursor = ''
    do {
      const page = await callHere(`history/session/messages?limit=200${cursor && `&cursor=${cursor}`}`)
      messages = [...messages, ...page.messages].slice(-SHOWN_MAX)
      cursor = page.hasMore ? encodeURIComponent(page.nextCursor) : ''
    } while (cursor)
    return messages
  }

  /** A turn's end belongs below its last answer, so before the next question. */
  function showHistory(messages) {
    let run = null
    for (const message of messages) {
      if (message.role === 'user') showEnd(run)
      if (message.role === 'user') run = message.run
      showMessage(message)
    }
    showEnd(run)
  }

  function showEnd(run) {
    if (run?.status === 'failed' || run?.status === 'cancelled') transcript.addEnd(run)
  }

  function showMessage({ id, role, content }) {
    const text = typeof content === 'string' ? content : ''
    if (text === '') return
    if (role === 'user') transcript.addQuestion(id, text)
    else if (role === 'assistant') transcript.addAnswer(text)
  }

  async function deliver(message) {
    if (!conversation) await open()
    startFollowing()
    await persist(() => callHere('messages', { body: message }))
  }

  function forget() {
    following?.abort()
    following = undefined
    conversation = undefined
    sessionStorage.removeItem(STORED)
  }

  return {
    restore,
    /** Sends a message after those before it; throws ApiError when it was not accepted, and then nothing of it is shown. */
    async send(text) {
      const messageId = randomId()
      const question = transcript.addQuestion(messageId, text)
      transcript.answerTo(messageId)
      const sent = sending.then(() => deliver({ content: text, messageId }))
      sending = sent.catch(() => {})
      try {
        await sent
      } catch (error) {
        transcript.drop(messageId)
        question.remove()
        if (error.status === 404) forget()
        throw error
      }
    },
    /** Ends every unfinished turn, the last one first, so that none of the waiting ones begins. */
    async stop() {
      for (const messageId of transcript.unfinished().reverse()) await callHere('cancel', { body: { messageId } })
    },
    /** Leaves this conversation; the next message begins another. */
    startOver() {
      forget()
      transcript.clear()
      say('')
    },
    /** The id of the conversation, once there is one. */
    id: () => conversation?.id,
  }
}

/** Tries again what the gateway could not take just now. The message's id makes it count once, however often it is sent. */
async function persist(send) {
  for (let tries = 1; ; tries++) {
    try {
      return await send()
    } catch (error) {
      const passes = error instanceof ApiError && (error.status === 0 || error.status === 429 || error.status === 503)
      if (!passes || tries === SEND_TRIES) throw error
      await pause(error.retryAfterMs ?? 500 * 2 ** tries)
    }
  }
}

function readStored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORED)) ?? undefined
  } catch {
    return undefined
  }
}
