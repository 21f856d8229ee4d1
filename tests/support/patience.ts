import type { ClientRequest } from 'node:http'

export interface Patience {
  /** How long a server may be silent that took the connection: no promise of the product, but where a test gives up. */
  withinMs?: number
}

/** Breaks a request off that is not answered, and rejects with what was waited for. To be called when the answer is there. */
export function rejectLate(
  sent: ClientRequest,
  reject: (error: Error) => void,
  { what, withinMs = 120_000 }: Patience & { what: string },
): () => void {
  const timer = setTimeout(() => {
    reject(new Error(`waited ${withinMs / 1000} s in vain for ${what}`))
    sent.destroy()
  }, withinMs)
  const end = () => clearTimeout(timer)
  sent.once('error', end)
  return end
}
