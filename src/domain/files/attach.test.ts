import type { ModelMessage } from 'ai'
import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { attachFiles, toReference } from './attach.ts'
import { storeFile } from './files.ts'

const MIB = 1024 * 1024

/** Stores a file of so many bytes in a new conversation, and gives what a stored message holds of it. */
async function reference(scene: Scene, file: { name: string; mediaType: string; bytes: number; fill?: string }) {
  const place = { organizationId: scene.organizationId, conversationId: await scene.open(), ...file }
  async function* content() {
    yield Buffer.alloc(file.bytes, file.fill ?? 'a')
  }
  return toReference(await storeFile(scene.sql, place, content()))
}

/** What a model is given of user messages, each with the given parts. */
async function attach(scene: Scene, ...contents: unknown[][]) {
  const messages = contents.map((content) => ({ role: 'user', content }) as ModelMessage)
  const attached = await attachFiles(scene.sql, { organizationId: scene.organizationId, messages })
  return attached.map(
    (message) => message.content as { type: string; text?: string; data?: string; filename?: string }[],
  )
}

describe('a model is shown', () => {
  test('the words of a text file, up to 64 KiB', async ({ world }) => {
    const scene = await createScene(world)
    const small = await reference(scene, { name: 'a.md', mediaType: 'text/markdown', bytes: 64 * 1024 })
    const large = await reference(scene, { name: 'b.json', mediaType: 'application/json', bytes: 64 * 1024 + 1 })

    expect(await attach(scene, [{ type: 'text', text: 'look' }, small, large])).toEqual([
      [
        { type: 'text', text: 'look' },
        { type: 'text', text: `Attached file "a.md":\n\n${'a'.repeat(64 * 1024)}` },
        { type: 'text', text: 'Attached file "b.json" (application/json, 65537 bytes), not shown.' },
      ],
    ])
  })

  test('images and PDF as they are, up to 10 MiB', async ({ world }) => {
    const scene = await createScene(world)
    const image = await reference(scene, { name: 'a.png', mediaType: 'image/png', bytes: 3 })
    const pdf = await reference(scene, { name: 'b.pdf', mediaType: 'application/pdf', bytes: 3, fill: 'b' })
    const large = await reference(scene, { name: 'c.png', mediaType: 'image/png', bytes: 10 * MIB + 1 })

    const [parts] = await attach(scene, [image, pdf, large])
    expect(parts).toEqual([
      { type: 'file', data: Buffer.from('aaa').toString('base64'), mediaType: 'image/png', filename: 'a.png' },
      { type: 'file', data: Buffer.from('bbb').toString('base64'), mediaType: 'application/pdf', filename: 'b.pdf' },
      { type: 'text', text: 'Attached file "c.png" (image/png, 10485761 bytes), not shown.' },
    ])
  })

  test('the name alone of anything else', async ({ world }) => {
    const scene = await createScene(world)
    const svg = await reference(scene, { name: 'a.svg', mediaType: 'image/svg+xml', bytes: 3 })
    expect(await attach(scene, [svg])).toEqual([
      [{ type: 'text', text: 'Attached file "a.svg" (image/svg+xml, 3 bytes), not shown.' }],
    ])
  })

  test('of many large files the newest, up to 20 MiB in a turn', async ({ world }) => {
    const scene = await createScene(world)
    const files = []
    for (const name of ['1', '2', '3']) {
      files.push(await reference(scene, { name, mediaType: 'image/png', bytes: 9 * MIB }))
    }
    const attached = await attach(scene, [files[0]], [files[1]], [files[2]])
    expect(attached.map((parts) => parts[0]!.type)).toEqual(['text', 'file', 'file'])
  })

  test("nothing of another organization's file, even by its id", async ({ world }) => {
    const [mine, theirs] = [await createScene(world), await createScene(world)]
    const secret = await reference(theirs, { name: 's.txt', mediaType: 'text/plain', bytes: 9, fill: 'secret' })
    expect(JSON.stringify(await attach(mine, [secret]))).not.toContain('secret')
  })
})

test('messages without files are left as they are', async ({ world }) => {
  const scene = await createScene(world)
  const messages: ModelMessage[] = [
    { role: 'user', content: 'plain' },
    { role: 'assistant', content: [{ type: 'text', text: 'answer' }] },
  ]
  expect(await attachFiles(scene.sql, { organizationId: scene.organizationId, messages })).toEqual(messages)
})
