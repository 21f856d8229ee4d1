import { describe, expect, test } from 'vitest'
import { parseDatabaseUrl, tlsOptions } from './url.ts'

describe('parseDatabaseUrl', () => {
  test('reads user, password, host, port and database', () => {
    expect(parseDatabaseUrl('postgresql://us%40er:p%2Fw%3A%3F@db.example:6543/app')).toMatchObject({
      hosts: [{ host: 'db.example', port: 6543 }],
      user: 'us@er',
      password: 'p/w:?',
      database: 'app',
      tls: 'disable',
      ignored: [],
    })
  })

  test.each([
    ['postgres:///app', [{ host: 'localhost', port: 5432 }]],
    ['postgres://db', [{ host: 'db', port: 5432 }]],
    ['postgres://u@[::1]:5433/app', [{ host: '::1', port: 5433 }]],
    [
      'postgres://u:p@a:1,b:2/app',
      [
        { host: 'a', port: 1 },
        { host: 'b', port: 2 },
      ],
    ],
    ['postgres://u@/app?host=/run/postgresql', [{ host: '/run/postgresql', port: 5432 }]],
    ['postgres://u@%2Frun%2Fpostgresql/app', [{ host: '/run/postgresql', port: 5432 }]],
  ])('%s leads to %j', (url, hosts) => {
    expect(parseDatabaseUrl(url).hosts).toEqual(hosts)
  })

  test.each([
    ['pgbouncer=true', { saysPooler: true, ignored: [] }],
    ['schema=public&connection_limit=5&pool_timeout=10&channel_binding=require', { ignored: [], settings: {} }],
    ['schema=other&sslfoo=1', { ignored: ['schema', 'sslfoo'], settings: {} }],
    ['application_name=mine&search_path=a,b', { settings: { application_name: 'mine', search_path: 'a,b' } }],
    ['options=-c%20work_mem%3D8MB', { settings: { options: '-c work_mem=8MB' } }],
    ['target_session_attrs=read-write', { targetSession: 'read-write' }],
    ['sslmode=require', { tls: 'require' }],
    ['ssl=true', { tls: 'require' }],
    ['sslmode=allow', { tls: 'prefer' }],
    ['sslmode=verify-full&sslrootcert=/ca.pem', { tls: 'verify-full', tlsFiles: { ca: '/ca.pem' } }],
    ['sslrootcert=system', { tls: 'verify-full', tlsFiles: {} }],
    ['sslmode=', { tls: 'disable' }],
  ])('?%s means %j', (query, expected) => {
    expect(parseDatabaseUrl(`postgres://u:p@h/d?${query}`)).toMatchObject(expected)
  })

  test.each([
    ['mysql://u:hunter2@h/d', 'must start with postgres://'],
    ['postgres://u:hunter2%@h/d', 'percent-encode'],
    ['postgres://u:hunter2@h:port/d', 'host or port'],
    ['postgres://u:hunter2@h/d?sslmode=sometimes', 'sslmode must be'],
  ])('%s is refused with a sentence that does not repeat the password', (url, sentence) => {
    expect(() => parseDatabaseUrl(url)).toThrow(sentence)
    expect(() => parseDatabaseUrl(url)).not.toThrow('hunter2')
  })
})

describe('tlsOptions', () => {
  test('require encrypts without looking at the certificate; verify-full looks at all of it', () => {
    expect(tlsOptions('disable', {})).toBe(false)
    expect(tlsOptions('prefer', {})).toBe('prefer')
    expect(tlsOptions('require', {})).toEqual({ rejectUnauthorized: false })
    expect(tlsOptions('verify-full', { ca: 'PEM' })).toEqual({ ca: 'PEM', rejectUnauthorized: true })
  })

  test('a root certificate is checked against in every mode; the host name in verify-full only', () => {
    for (const mode of ['require', 'verify-ca'] as const) {
      expect(tlsOptions(mode, { ca: 'PEM' })).toMatchObject({ ca: 'PEM', rejectUnauthorized: true })
      expect(tlsOptions(mode, { ca: 'PEM' })).toHaveProperty('checkServerIdentity')
    }
  })
})
