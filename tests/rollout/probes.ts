import { setTimeout as sleep } from 'node:timers/promises'
import type { Gateway } from '../support/gateway.ts'
import type { Probe } from './rules.ts'

/**
 * Asks a replica as the kubelet asks a pod, until the signal. Resolves with a sentence when so many answers in a row were
 * bad or late that the kubelet would act, with undefined when that did not happen.
 */
export async function keepProbing(gateway: Gateway, probe: Probe, signal: AbortSignal): Promise<string | undefined> {
  for (let failures = 0; !signal.aborted; ) {
    failures = (await isWell(gateway, probe)) ? 0 : failures + 1
    if (failures === probe.failuresMax && !signal.aborted)
      return `${gateway.url}${probe.path} failed ${failures} times in a row\n${gateway.report()}`
    await sleep(probe.periodMs, undefined, { signal }).catch(() => {})
  }
  return undefined
}

function isWell(gateway: Gateway, { path, timeoutMs }: Probe): Promise<boolean> {
  return fetch(`${gateway.url}${path}`, { signal: AbortSignal.timeout(timeoutMs) }).then(
    async (answer) => {
      await answer.arrayBuffer()
      return answer.ok
    },
    () => false,
  )
}
