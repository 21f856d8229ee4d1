import { buryCall, claimCalls } from '../../src/queue/outbox.ts'
import type { Scene } from './scene.ts'

/** A turn that ended as a dead letter. */
export async function giveUp(scene: Scene, over?: { webhookUrl: string }) {
  const conversation = await scene.open()
  const run = await scene.start(conversation, over)
  const error = { code: 'attempts_exhausted', message: 'given up' }
  await scene.end(run, { status: 'failed', error, deadLetter: true })
  return { conversation, run }
}

/** A webhook that nobody took, beside the dead letter of its run. */
export async function buryWebhook(scene: Scene, { url, attempts }: { url: string; attempts: number }) {
  const given = await giveUp(scene, { webhookUrl: url })
  const lane = { organizationId: scene.organizationId, targetHost: new URL(url).hostname, count: 1 }
  const claim = { kind: 'webhook', lanes: [lane], leaseMs: 60_000 }
  const [call] = await claimCalls(scene.sql, claim)
  await buryCall(scene.sql, call!, { error: 'status: 500', attempts })
  return { ...given, call: call!, claim }
}
