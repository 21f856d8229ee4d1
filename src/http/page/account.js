import { attempt, auth, byId, call, leaveFor, onClick, onSubmit, say, showProviders } from './account-form.js'

const SIGN_IN = `sign-in?next=${encodeURIComponent(location.pathname)}`

onClick('sign-out', async () => {
  await auth('sign-out', {})
  location.assign('sign-in')
})

onClick('revoke-others', async () => {
  await auth('revoke-other-sessions', {})
  await showSessions()
  say('You are signed out everywhere else.')
})

onClick('add-passkey', async () => {
  const options = PublicKeyCredential.parseCreationOptionsFromJSON(await auth('passkey/generate-register-options'))
  const credential = await navigator.credentials.create({ publicKey: options }).catch(() => {
    throw new Error('No passkey was made.')
  })
  await auth('passkey/verify-registration', { response: credential.toJSON(), name: navigator.platform || 'Passkey' })
  await showPasskeys()
  say('The passkey is added.')
})

onSubmit('password-form', async ({ current, next }) => {
  await auth('change-password', { currentPassword: current, newPassword: next })
  byId('password-form').reset()
  await showSessions()
  say('Your password is changed.')
})

let twoFactor = false

onSubmit('factor-form', async (form) => {
  const password = form['factor-password']
  if (twoFactor) {
    await auth('two-factor/disable', { password })
    byId('factor-form').reset()
    say('Two-factor sign-in is off.')
    return showPerson()
  }
  const { totpURI, backupCodes } = await auth('two-factor/enable', { password })
  byId('factor-link').href = totpURI
  byId('factor-secret').textContent = new URL(totpURI).searchParams.get('secret')
  byId('factor-codes').textContent = backupCodes.join('\n')
  byId('factor-form').reset()
  byId('factor-form').hidden = true
  byId('factor-confirm').hidden = false
  byId('factor-code').focus()
})

onSubmit('factor-confirm', async (form) => {
  await auth('two-factor/verify-totp', { code: form['factor-code'] })
  byId('factor-confirm').hidden = true
  say('Two-factor sign-in is on.')
  await showPerson()
})

/** A row with a text, a smaller one below, and a button. */
function row(text, small, action, work) {
  const item = document.createElement('li')
  const words = document.createElement('span')
  words.append(text, Object.assign(document.createElement('small'), { textContent: small }))
  const button = Object.assign(document.createElement('button'), {
    type: 'button',
    className: 'quiet',
    textContent: action,
  })
  button.setAttribute('aria-label', `${action}: ${text}`)
  button.addEventListener('click', () => attempt(button, work))
  item.append(words, ...(work ? [button] : []))
  return item
}

/** What a person would call their browser; what it calls itself names four others. */
function nameOf(userAgent) {
  const [program] = /Edg|OPR|Firefox|Chrome|Safari|curl/.exec(userAgent) ?? ['']
  const [system] = /Windows|iPhone|iPad|Android|Mac OS X|Linux/.exec(userAgent) ?? ['']
  const name = { Edg: 'Edge', OPR: 'Opera' }[program] ?? program
  return [name || 'Unknown browser', system && `on ${system}`].filter(Boolean).join(' ')
}

const when = (text) => new Date(text).toLocaleString()

async function showSessions() {
  const [sessions, { session }] = await Promise.all([auth('list-sessions'), auth('get-session')])
  byId('sessions').replaceChildren(
    ...sessions.map(({ token, userAgent, ipAddress, createdAt }) => {
      const isThis = token === session.token
      const small = `${isThis ? 'This browser · ' : ''}since ${when(createdAt)}${ipAddress ? ` · ${ipAddress}` : ''}`
      const end = async () => {
        await auth('revoke-session', { token })
        await showSessions()
      }
      return row(nameOf(userAgent ?? ''), small, 'Sign out', isThis ? null : end)
    }),
  )
}

async function showPasskeys() {
  const passkeys = await auth('passkey/list-user-passkeys')
  byId('passkeys').replaceChildren(
    ...passkeys.map(({ id, name, createdAt }) =>
      row(name || 'Passkey', `since ${when(createdAt)}`, 'Remove', async () => {
        await auth('passkey/delete-passkey', { id })
        await showPasskeys()
      }),
    ),
  )
}

async function showPerson() {
  const found = await auth('get-session')
  if (!found) return location.assign(SIGN_IN)
  const { user } = found
  byId('name').textContent = user.name
  byId('email').textContent = user.email
  twoFactor = user.twoFactorEnabled === true
  byId('factor-state').textContent = twoFactor
    ? 'On: signing in with your password takes a code as well.'
    : 'Off: your password alone is enough to sign in.'
  byId('factor-action').textContent = twoFactor ? 'Turn off' : 'Turn on'
  byId('factor-form').hidden = false
  return user
}

attempt(byId('sign-out'), async () => {
  if (!(await showPerson())) return
  const [{ providers }, accounts] = await Promise.all([call('sign-in/options'), auth('list-accounts')])
  const has = (id) => accounts.some(({ providerId }) => providerId === id)
  byId('password-title').parentElement.hidden = !has('credential')
  byId('factor-title').parentElement.hidden = !has('credential')
  byId('add-passkey').hidden = !window.PublicKeyCredential
  const back = new URL('account', document.baseURI).href
  const others = providers.filter(({ id }) => !has(id))
  showProviders(others, (id) => leaveFor('link-social', id, back), 'Add')
  await Promise.all([showSessions(), showPasskeys()])
})
