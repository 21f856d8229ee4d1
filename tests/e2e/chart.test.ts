import { expect } from 'vitest'
import { PAGE } from '../chart/value-sets.ts'
import { SECRETS } from '../support/cluster.ts'
import { findHelms, type KubernetesObject } from '../support/helm.ts'
import { containersOf, podOf } from '../support/pod-security.ts'
import { test } from '../support/programs.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the programs share it')

const helms = await findHelms()

/** What a container is started with, its Secrets filled in. The rest of the world is this machine's. */
function startOf(object: KubernetesObject, secrets: Record<string, Record<string, string>>) {
  const [container] = containersOf(podOf(object))
  const env: Record<string, string> = {}
  for (const { secretRef } of container.envFrom ?? []) Object.assign(env, secrets[secretRef.name])
  for (const { name, value, valueFrom } of container.env) {
    env[name] = value ?? secrets[valueFrom.secretKeyRef.name]![valueFrom.secretKeyRef.key]!
  }
  // Those of the container are this machine's too: any free port, a folder that can be written, loopback.
  const { PORT, LOBU_DATA_DIR, ...rest } = env
  expect([PORT ?? '8787', LOBU_DATA_DIR ?? '/var/lib/lobu']).toEqual(['8787', '/var/lib/lobu'])
  return { args: container.args as string[], env: { ...rest, HOST: '127.0.0.1' }, container }
}

test.skipIf(helms.length === 0)(
  'the published values, rendered, install: the Job migrates, the app becomes ready, its probes answer, the test passes',
  async ({ programs }) => {
    const objects = await helms[0]!.render({ files: [PAGE] })
    const secrets = {
      'lobu-db': { uri: await programs.database({ empty: true }) },
      'lobu-secrets': { ...SECRETS },
    }
    const start = (kind: string, name: string) =>
      startOf(
        objects.find((object) => object.kind === kind && object.metadata.name === name),
        secrets,
      )

    const app = start('Deployment', 'lobu-app')
    expect(app.args).toEqual(['serve'])
    // Before the Job the app has no schema, and must not make one: SKIP_MIGRATIONS is in its environment.
    const early = await programs.serve(app.env)
    const { httpGet: ready } = app.container.readinessProbe
    const before = await fetch(`${early.url}${ready.path}`)
    expect([before.status, ((await before.json()) as { ready: boolean }).ready]).toEqual([503, false])

    // The Job inherits SKIP_MIGRATIONS and must not heed it.
    const job = start('Job', 'lobu-migrate')
    expect(job.env).toMatchObject({ SKIP_MIGRATIONS: '1' })
    expect(Object.keys(job.env)).not.toContain('JWT_SECRET')
    const migrated = await programs.run(job.args, job.env)
    expect([migrated.code, migrated.stderr]).toEqual([0, ''])

    const gateway = await programs.serve(app.env)
    await gateway.ready()
    for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe'] as const) {
      const { path, port } = app.container[probe].httpGet
      expect(app.container.ports.map(({ name }: KubernetesObject) => name)).toContain(port)
      expect((await fetch(`${gateway.url}${path}`)).status, probe).toBe(200)
    }
    // What waited for the schema needs no restart.
    await early.ready()
    expect(
      (
        await gateway.logged(
          'nobody can sign in yet: open the link, which works once and for a day, to become the owner',
        )
      ).link,
    ).toMatch(/^https:\/\/lobu\.example\.com\/setup#/)

    const turn = start('Pod', 'lobu-test')
    const smoke = await programs.run([turn.args[0]!, gateway.url], turn.env)
    expect([smoke.code, smoke.stdout]).toEqual([0, expect.stringContaining('the answer came whole')])
    expect(turn.args[1]).toBe('http://lobu-app:8787')
  },
)
