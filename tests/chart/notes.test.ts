import { describe, expect, test } from 'vitest'
import { findHelms } from '../support/helm.ts'
import { PAGE, PAGE_REPLICAS } from './value-sets.ts'

const helms = await findHelms()

describe.each(helms.map((helm) => [helm.version, helm] as const))('the notes of an install by helm %s', (_, helm) => {
  const notes = (values: object, files: string[] = []) => helm.notes({ values, files })

  test('say where it is, how to become its owner and how to try it', async () => {
    const text = await notes({}, [PAGE])
    expect(text).toContain('Public URL: https://lobu.example.com')
    expect(text).toContain('kubectl -n lobu logs deploy/lobu-app | grep setup')
    expect(text).toContain('helm -n lobu test lobu --logs')
    expect(text).toContain('kubectl -n lobu get ingress lobu-app')
    expect(text).not.toContain('WARNING')
    expect(await notes({})).toContain('kubectl -n lobu port-forward svc/lobu-app 8787:8787')
  })

  test('warn when several replicas have no affinity, and say truly what it would be good for', async () => {
    const text = await notes({ app: { replicaCount: 3 } })
    expect(text).toMatch(/WARNING, of comfort only: service\.sessionAffinity is not ClientIP/)
    expect(text).toMatch(/nothing is lost/)
    expect(await notes({})).not.toMatch(/affinity/i)
  })

  test('say that affinity has no effect behind an ingress', async () => {
    const text = await notes({}, [PAGE, PAGE_REPLICAS])
    expect(text).toMatch(/keeps a client on one pod for 10800 s where it reaches this Service directly/)
    expect(text).toMatch(/Through the ingress it has no effect/)
    expect(text).not.toMatch(/WARNING/)
  })

  test.each([
    ['no public URL', {}, /WARNING: no public URL/],
    ['a public URL without https', { app: { env: { PUBLIC_WEB_URL: 'http://a.example.com' } } }, /is not https/],
    [
      'a public URL that the ingress does not know',
      {
        app: { env: { PUBLIC_WEB_URL: 'https://a.example.com' } },
        ingress: { enabled: true, hosts: ['b.example.com'] },
      },
      /not among ingress\.hosts \(b\.example\.com\)/,
    ],
    ['a tag that moves', { image: { tag: 'latest' } }, /WARNING: image\.tag is "latest"/],
    [
      'a balancer that the network policy shuts out',
      { service: { type: 'LoadBalancer' } },
      /service\.type is LoadBalancer, but networkPolicy\.from names no ipBlock/,
    ],
    ['development', { app: { env: { NODE_ENV: 'development' } } }, /NODE_ENV is not "production"/],
    ['a secret in the values', { app: { env: { OPENAI_API_KEY: 'hunter2' } } }, /app\.env\.OPENAI_API_KEY looks like/],
    [
      'nobody who migrates',
      { migrations: { enabled: false }, app: { env: { SKIP_MIGRATIONS: '1' } } },
      /WARNING: migrations\.enabled is false and SKIP_MIGRATIONS is set/,
    ],
  ])('warn about %s', async (_name, values, warning) => {
    expect(await notes(values)).toMatch(warning)
  })

  test('say nothing of a balancer whose addresses the network policy names, or that meets no policy', async () => {
    const service = { type: 'LoadBalancer' }
    const from = [{ ipBlock: { cidr: '192.0.2.0/24' } }]
    expect(await notes({ service, networkPolicy: { from } })).not.toMatch(/names no ipBlock/)
    expect(await notes({ service, networkPolicy: { enabled: false } })).not.toMatch(/names no ipBlock/)
  })

  test('name the ingress controller’s addresses as missing, until they are given', async () => {
    expect(await notes({}, [PAGE])).toMatch(/until app\.env\.TRUSTED_PROXY names/)
    expect(await notes({ app: { env: { TRUSTED_PROXY: '10.0.0.0/8' } } }, [PAGE])).not.toMatch(/TRUSTED_PROXY/)
  })
})
