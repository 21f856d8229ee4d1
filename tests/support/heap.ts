import type { Gateway } from './gateway.ts'
import { openInspector } from './inspector.ts'

const MIB = 1_048_576

/** What is left of a replica's heap after a garbage collection, in MiB. The replica was started with `INSPECTED`. */
export async function heapMib(gateway: Gateway): Promise<number> {
  return (await usageOf(gateway)).usedSize / MIB
}

/** The same, and the bytes of buffers. */
export async function heapAndBuffersMib(gateway: Gateway): Promise<number> {
  const { usedSize, backingStorageSize } = await usageOf(gateway)
  return (usedSize + backingStorageSize) / MIB
}

interface HeapUsage {
  usedSize: number
  backingStorageSize: number
}

async function usageOf(gateway: Gateway): Promise<HeapUsage> {
  const inspector = await openInspector(gateway)
  try {
    // What the first one finalizes is taken by the second.
    await inspector.ask('HeapProfiler.collectGarbage')
    await inspector.ask('HeapProfiler.collectGarbage')
    return await inspector.ask<HeapUsage>('Runtime.getHeapUsage')
  } finally {
    inspector.close()
  }
}
