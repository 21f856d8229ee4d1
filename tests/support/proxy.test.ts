import { createServer } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { sendRequest } from './cluster.ts'
import { startLoadBalancer } from './proxy.ts'
import { createRandom } from './random.ts'

test('a connection that was being made to a replica when that was given up is broken off as well', async () => {
  // Takes connections and says nothing, as a frozen replica does.
  const frozen = createServer()
  await new Promise<void>((resolve) => frozen.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void frozen.close())
  const { port } = frozen.address() as { port: number }
  const random = createRandom()
  const proxy = await startLoadBalancer({
    random: {
      ...random,
      shuffle(ports) {
        process.nextTick(() => proxy.giveUp(port))
        return random.shuffle(ports)
      },
    },
  })
  onTestFinished(() => proxy.stop())
  await proxy.setTargets([port])
  expect(await sendRequest('GET', proxy.url, {})).toMatchObject({ status: 502 })
})
