import {
  attempt,
  auth,
  byId,
  call,
  leaveFor,
  onClick,
  onSubmit,
  say,
  showProviders,
  takeFromAddress,
} from './account-form.js'

const token = takeFromAddress('token')

async function join() {
  await call('invite/accept', {})
  location.assign('account')
}

onClick('accept', join)

onSubmit('sign-up-form', async (form) => {
  const { token: session } = await auth('sign-up/email', {
    ...form,
    callbackURL: new URL('invite', document.baseURI).href,
  })
  if (session) await join()
  else say('Almost there: open the link that we have sent to your address.')
})

attempt(byId('accept'), async () => {
  const invitation = token ? await call('invite', { token }) : await call('invite/held')
  byId('organization').textContent = invitation.organizationName
  byId('role').textContent = invitation.role
  byId('invitation').hidden = false
  byId('accept').hidden = !invitation.signedIn
  byId('account-needed').hidden = invitation.signedIn
  if (invitation.email) {
    byId('email').value = invitation.email
    byId('email').readOnly = true
  }
  byId('sign-in').href = `sign-in?next=${encodeURIComponent(new URL('invite', document.baseURI).pathname)}`
  const { providers } = await call(`sign-in/options?org=${encodeURIComponent(invitation.organizationSlug)}`)
  showProviders(providers, (id) => leaveFor('sign-in/social', id, new URL('invite', document.baseURI).href))
})
