import { expect, test } from 'vitest'
import { explainConnectError } from './errors.ts'

function refused(code: string, message: string) {
  return explainConnectError(Object.assign(new Error(message), { code }))
}

test.each([
  [
    'no pg_hba.conf entry for host "10.0.0.7", user "lobu", database "lobu", no encryption',
    /takes encrypted connections only: add \?sslmode=require/,
  ],
  ['no pg_hba.conf entry for host "10.0.0.7", user "lobu", database "lobu", SSL off', /add \?sslmode=require/],
  ['no pg_hba.conf entry for host "10.0.0.7", user "lobu", database "lobu", SSL encryption', /pg_hba\.conf/],
  ['role "lobu" is not permitted to log in', /user name or password/],
])('a server that says %s', (message, advice) => {
  const sentence = refused('28000', message)
  expect(sentence).toMatch(advice)
  expect(sentence).not.toContain('10.0.0.7')
})
