// What the pages of accounts share: calls, forms that say what went wrong, and where to go next. All addresses are
// relative, so that the pages work below any path.

export const byId = (id) => document.getElementById(id)

/** Thrown for an answer that is no 2xx; its message is a sentence for the person. */
export class CallError extends Error {
  constructor(message, code) {
    super(message)
    this.code = code
  }
}

/** Calls a route of the gateway: POST with a body, else GET. Resolves with the JSON of the answer. */
export async function call(path, body) {
  const init = body === undefined ? {} : { method: 'POST', headers: { 'content-type': 'application/json' } }
  if (body !== undefined) init.body = JSON.stringify(body)
  const response = await fetch(path, init).catch(() => {
    throw new CallError('The gateway cannot be reached. Try again.', 'unreachable')
  })
  const answer = await response.json().catch(() => ({}))
  if (response.ok) return answer
  throw new CallError(answer.error ?? 'Something went wrong. Try again.', answer.code ?? '')
}

export const auth = (path, body) => call(`api/auth/${path}`, body)

/** Shows a sentence above the form, and reads it out. */
export function say(text, state = 'ok') {
  const status = byId('status')
  status.dataset.state = state
  status.textContent = text
}

/** Runs `work` with the control disabled; what it throws is said. */
export async function attempt(control, work) {
  control.disabled = true
  try {
    await work()
  } catch (error) {
    say(error.message, 'bad')
  } finally {
    control.disabled = false
  }
}

/** `work` gets the form's fields by name, instead of the browser sending them anywhere; until here the form is shut. */
export function onSubmit(id, work) {
  const form = byId(id)
  form.querySelector('button[type=submit]').disabled = false
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    attempt(form.querySelector('button[type=submit]'), () => work(Object.fromEntries(new FormData(form))))
  })
}

export function onClick(id, work) {
  byId(id).addEventListener('click', () => attempt(byId(id), work))
}

/** The value behind `#name=` in the address, which is then taken out of it: it is a secret. */
export function takeFromAddress(name) {
  const value = new URLSearchParams(location.hash.slice(1)).get(name)
  if (value) history.replaceState(null, '', location.pathname + location.search)
  return value
}

/** Where to go after signing in: a path of this gateway and nothing else, whatever the address says. */
export function nextPage(fallback = 'account') {
  const home = new URL(fallback, document.baseURI)
  const wanted = new URLSearchParams(location.search).get('next')
  if (!wanted?.startsWith('/')) return home.href
  const next = new URL(wanted, document.baseURI)
  return next.origin === home.origin ? next.href : home.href
}

/** A button for each provider; `start` gets its id. */
export function showProviders(providers, start, verb = 'Continue with') {
  const place = byId('providers')
  place.replaceChildren(
    ...providers.map(({ id, name }) => {
      const button = document.createElement('button')
      button.type = 'button'
      button.className = 'quiet'
      button.textContent = `${verb} ${name}`
      button.addEventListener('click', () => attempt(button, () => start(id)))
      return button
    }),
  )
}

/** Leaves for the provider, which sends the person back to `back`. */
export async function leaveFor(path, provider, back) {
  const here = new URL(location.pathname.split('/').at(-1), document.baseURI).href
  const { url } = await auth(path, { provider, callbackURL: back, errorCallbackURL: here })
  location.assign(url)
}
