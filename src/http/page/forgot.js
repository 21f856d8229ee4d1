import { auth, onSubmit, say } from './account-form.js'

onSubmit('forgot-form', async ({ email }) => {
  await auth('request-password-reset', { email })
  say('If there is an account with this address, the link is on its way.')
})
