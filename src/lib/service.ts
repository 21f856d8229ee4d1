/**
 * Something that runs in the background. `start` resolves when it works; `stop` resolves when nothing of
 * it is left running, and may be called twice, or before `start`.
 */
export interface Service {
  readonly name: string
  start(): Promise<void>
  stop(): Promise<void>
}
