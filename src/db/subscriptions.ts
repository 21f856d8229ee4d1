export interface Subscription {
  onPayload(payload: string): void
  onReady(): void
}

/** Who listens to which channel. What a subscriber throws is handed to `onFault` and keeps nobody else from hearing. */
export interface Subscriptions {
  add(channel: string, subscription: Subscription): void
  /** True when nobody listens to the channel any more. */
  remove(channel: string, subscription: Subscription): boolean
  channels(): string[]
  deliver(channel: string, payload: string): void
  /** Tells everybody, or one, that from now on nothing is missed. */
  announce(subscription?: Subscription): void
}

export function createSubscriptions(onFault: (error: unknown) => void): Subscriptions {
  const groups = new Map<string, Set<Subscription>>()

  function safely(call: () => void) {
    try {
      call()
    } catch (error) {
      onFault(error)
    }
  }

  return {
    add(channel, subscription) {
      groups.set(channel, (groups.get(channel) ?? new Set()).add(subscription))
    },
    remove(channel, subscription) {
      const group = groups.get(channel)
      if (!group?.delete(subscription) || group.size > 0) return false
      return groups.delete(channel)
    },
    channels: () => [...groups.keys()],
    deliver(channel, payload) {
      for (const one of groups.get(channel) ?? []) safely(() => one.onPayload(payload))
    },
    announce(subscription) {
      const all = subscription === undefined ? [...groups.values()].flatMap((group) => [...group]) : [subscription]
      for (const one of all) safely(one.onReady)
    },
  }
}
