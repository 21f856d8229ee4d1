import { auth, byId, onSubmit, say, takeFromAddress } from './account-form.js'

const token = takeFromAddress('token')
if (!token) {
  byId('reset-form').hidden = true
  say('Open the whole link from the mail.', 'bad')
}

onSubmit('reset-form', async ({ password }) => {
  await auth('reset-password', { newPassword: password, token })
  byId('reset-form').hidden = true
  say('Your password is changed. Sign in with it.')
})
