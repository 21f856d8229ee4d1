import { describe, expect, vi } from 'vitest'
import { createScene } from '../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import type { Sql } from './client.ts'
import { RUN_SCOPED, type RunScoped } from './guard-scope.ts'
import { scopeToOrganization } from './tenant.ts'

requirePostgres('it ends connections')

async function createStage(world: World) {
  const own = await createScene(world)
  const { sql } = await world.replica({ poolMax: 2 })
  const admin = await world.replica({ poolMax: 1 })
  return { own, sql, admin: admin.sql, scoped: scopeToOrganization(sql, own.organizationId) }
}

const whoAmI = async (sql: Sql) => (await sql<{ role: string }[]>`select current_user as role`)[0]!.role

describe('a statement in the scope of an organization', () => {
  test('that the server refuses leaves nothing behind: no change, no scope, no connection', async ({ world }) => {
    const { own, sql, scoped } = await createStage(world)
    for (let n = 0; n < 10; n++) {
      const both = scoped`
        with changed as (update agents set name = 'changed' where organization_id = ${own.organizationId} returning 1)
        select 1 / (count(*) - count(*)) from changed`
      await expect(both).rejects.toMatchObject({ code: '22012' })
    }
    expect(await scoped`select 1 from agents where name = 'changed'`).toEqual([])
    expect(await whoAmI(scoped)).toBe('lobu_tenant')
    expect(await whoAmI(sql)).not.toBe('lobu_tenant')
  })

  test('that the server refuses is sent once', async ({ world }) => {
    const { admin, scoped } = await createStage(world)
    const name = world.unique('counted').replaceAll('-', '_')
    await admin.unsafe(`create sequence ${name}; grant usage on sequence ${name} to lobu_tenant`)
    await expect(scoped`select 1 / (nextval(${name}::text::regclass) * 0)`).rejects.toMatchObject({ code: '22012' })
    expect(await admin.unsafe(`select last_value::int as value from ${name}`)).toEqual([{ value: 1 }])
  })

  test('that the driver refuses to send leaves nothing behind', async ({ world }) => {
    const { sql, scoped } = await createStage(world)
    for (let n = 0; n < 10; n++) {
      await expect(scoped`select ${undefined as never}::text`).rejects.toMatchObject({ code: 'UNDEFINED_VALUE' })
    }
    expect(await whoAmI(scoped)).toBe('lobu_tenant')
    expect(await whoAmI(sql)).not.toBe('lobu_tenant')
  })

  test('is not sent when its scope cannot be set', async ({ world }) => {
    const { own, sql } = await createStage(world)
    const run = (sql as unknown as { [RUN_SCOPED]: RunScoped })[RUN_SCOPED]
    const strings = Object.assign(["update agents set name = 'changed'"], {
      raw: ["update agents set name = 'changed'"],
    })
    for (let n = 0; n < 10; n++) {
      await expect(run({ opening: 'begin; select 1 / 0', strings, args: [] })).rejects.toMatchObject({ code: '22012' })
    }
    expect(await sql`select 1 from agents where organization_id = ${own.organizationId} and name = 'changed'`).toEqual(
      [],
    )
  })

  test('whose plan is out of date runs again, still in its scope', async ({ world }) => {
    const { sql, admin, scoped } = await createStage(world)
    const table = world.unique('planned').replaceAll('-', '_')
    await admin.unsafe(
      `create table ${table} (value int); insert into ${table} values (1); grant select on ${table} to lobu_tenant`,
    )
    const read = () => scoped`select *, current_user as role from ${scoped(table)}`
    for (let n = 0; n < 10; n++) await Promise.all([read(), read()])
    await admin.unsafe(`alter table ${table} alter column value type text`)
    for (let n = 0; n < 10; n++) {
      const found = await Promise.allSettled([read(), read()])
      for (const one of found) {
        if (one.status === 'fulfilled') expect(one.value).toEqual([{ value: '1', role: 'lobu_tenant' }])
        // Where the ordinary transaction meets another connection's old plan, it says so once for that connection.
        else expect(one.reason).toMatchObject({ code: '0A000' })
      }
    }
    expect(await read()).toEqual([{ value: '1', role: 'lobu_tenant' }])
    expect(await whoAmI(sql)).not.toBe('lobu_tenant')
  })

  test('whose connection dies rejects, and the pool goes on', async ({ world }) => {
    const { admin, scoped } = await createStage(world)
    for (let n = 0; n < 5; n++) {
      const slept = expect(scoped`select pg_sleep(60), ${`victim ${n}`}::text`).rejects.toMatchObject({
        code: 'database_unavailable',
      })
      const find = async () => {
        const [row] = await admin<{ pid: number }[]>`
          select pid from pg_stat_activity where state = 'active' and query like 'select pg_sleep(60), $1%'
            and datname = current_database()`
        return row?.pid
      }
      const pid = await vi.waitUntil(find, { interval: 5, timeout: 60_000 })
      await admin`select pg_terminate_backend(${pid}, 5000)`
      await slept
      const isBack = () =>
        whoAmI(scoped).then(
          (role) => role === 'lobu_tenant',
          () => false,
        )
      await vi.waitUntil(isBack, { interval: 5, timeout: 60_000 })
    }
  })

  test('survives connections that are ended at any moment, and is never run outside of its scope', async ({
    world,
  }) => {
    const { own, admin, scoped } = await createStage(world)
    let over = false
    const seen = { answered: 0, refused: 0 }
    const ask = async () => {
      while (!over) {
        // While the gate is shut everybody is refused at once, and nothing else would ever have a turn.
        await new Promise(setImmediate)
        await scoped<
          { role: string; id: string }[]
        >`select current_user as role, organization_id as id from agents`.then(
          (rows) => {
            for (const row of rows) expect(row).toEqual({ role: 'lobu_tenant', id: own.organizationId })
            seen.answered++
          },
          (error) => {
            expect(error).toMatchObject({ code: 'database_unavailable' })
            seen.refused++
          },
        )
      }
    }
    const asking = Promise.all([ask(), ask(), ask()])
    for (let n = 0; n < 30; n++) {
      await admin`
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and application_name = 'lobu'`
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 30))
    }
    await vi.waitUntil(() => seen.answered > 50, { timeout: 60_000 })
    over = true
    await asking
  })
})
