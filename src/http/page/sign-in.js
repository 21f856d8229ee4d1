import {
  attempt,
  auth,
  byId,
  call,
  leaveFor,
  nextPage,
  onClick,
  onSubmit,
  say,
  showProviders,
  takeFromAddress,
} from './account-form.js'

const query = new URLSearchParams(location.search)
/** A program that wants in has sent the person here; its signed request goes on once they are signed in. */
const asked = query.has('sig') ? { oauth_query: location.search.slice(1) } : {}

const REASONS = {
  SIGN_UP_BY_INVITATION: 'Accounts are made by invitation here: open the link that you were sent.',
  account_not_linked:
    'There is an account with this address. Sign in to it first, then add the other way on your account page.',
  access_denied: 'The sign-in was called off.',
  INVALID_TOKEN: 'This link was used or has expired. Ask for a new one.',
}

function proceed(answer) {
  if (answer?.twoFactorRedirect) {
    byId('ways').hidden = true
    byId('sign-up-aside').hidden = true
    byId('code-form').hidden = false
    byId('code').focus()
    return
  }
  location.assign(answer?.url ?? nextPage())
}

onSubmit('password-form', async ({ email, password }) => {
  proceed(await auth('sign-in/email', { email, password, ...asked }))
})

onSubmit('code-form', async ({ code }) => {
  const isBackup = !/^\d{6}$/.test(code.trim())
  const path = isBackup ? 'two-factor/verify-backup-code' : 'two-factor/verify-totp'
  proceed(await auth(path, { code: code.trim(), ...asked }))
})

onClick('passkey', async () => {
  const options = PublicKeyCredential.parseRequestOptionsFromJSON(await auth('passkey/generate-authenticate-options'))
  const credential = await navigator.credentials.get({ publicKey: options }).catch(() => {
    throw new Error('No passkey was used.')
  })
  proceed(await auth('passkey/verify-authentication', { response: credential.toJSON(), ...asked }))
})

onClick('mail-link', async () => {
  const field = byId('email')
  if (!field.reportValidity()) return
  await auth('sign-in/magic-link', { email: field.value, callbackURL: nextPage(), errorCallbackURL: location.pathname })
  say('If you have an account, the link is on its way to you.')
})

onClick('sign-up', async () => {
  byId('ways').hidden = true
  byId('sign-up-aside').hidden = true
  byId('sign-up-form').hidden = false
  byId('new-name').focus()
})

onSubmit('sign-up-form', async (form) => {
  const person = { name: form['new-name'], email: form['new-email'], password: form['new-password'] }
  const { token } = await auth('sign-up/email', { ...person, callbackURL: nextPage(), ...asked })
  if (token) proceed()
  else say('Almost there: open the link that we have sent to your address.')
})

const link = takeFromAddress('link')
if (link) {
  byId('ways').hidden = true
  byId('link-form').hidden = false
  onSubmit('link-form', async () => {
    const target = new URLSearchParams({ token: link, callbackURL: nextPage(), errorCallbackURL: location.pathname })
    location.assign(`api/auth/magic-link/verify?${target}`)
  })
}

// A mailed link has brought the person here, and a second factor is set up.
if (query.get('code') === 'needed') proceed({ twoFactorRedirect: true })

const error = query.get('error')
if (error) say(REASONS[error] ?? 'That did not work. Try again, or sign in another way.', 'bad')

byId('passkey').hidden = !window.PublicKeyCredential
attempt(byId('passkey'), async () => {
  const organization = query.get('org')
  const options = await call(`sign-in/options${organization ? `?org=${encodeURIComponent(organization)}` : ''}`)
  byId('forgot').hidden = !options.mail
  byId('mail-link').hidden = !options.mail
  byId('sign-up-aside').hidden = options.signUp !== 'open' || link !== null
  showProviders(options.providers, (id) => leaveFor('sign-in/social', id, nextPage()))
})
