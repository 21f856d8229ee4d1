import { byId, call, onSubmit, say, takeFromAddress } from './account-form.js'

const token = takeFromAddress('token')
if (!token) {
  byId('setup-form').hidden = true
  say('Open the whole link from the log of the gateway.', 'bad')
}

onSubmit('setup-form', async (form) => {
  await call('setup', { token, ...form })
  location.assign('account')
})
