import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { ALL_PERMISSIONS, PERMISSIONS, ROLE_NAMES, ROLES } from '../../src/domain/accounts/permissions.ts'

const PAGE = new URL('../../docs/organizations.md', import.meta.url)
const BEGIN = '<!-- roles: begin (tests/structure/roles.test.ts prints it) -->\n'
const END = '<!-- roles: end -->'

test('the table of roles in the documentation is that of the code', () => {
  const page = readFileSync(PAGE, 'utf8')
  const written = page.slice(page.indexOf(BEGIN) + BEGIN.length, page.indexOf(END))
  const rows = ALL_PERMISSIONS.map((permission) => {
    const marks = ROLE_NAMES.map((role) => ((ROLES[role] as readonly string[]).includes(permission) ? '✓' : ''))
    return `| \`${permission}\` | ${PERMISSIONS[permission]} | ${marks.join(' | ')} |\n`
  })
  const head = `| permission | | ${ROLE_NAMES.join(' | ')} |\n| --- | --- |${' --- |'.repeat(ROLE_NAMES.length)}\n`
  expect(written).toBe(head + rows.join(''))
})
