import type { GroupSignal, GroupSpec, GroupStreams, WorkerExit } from './groups.ts'

/** What the gateway asks of the spawner. `id` names a process, from the order to start it on. */
export type SpawnerOrder =
  | { type: 'start'; id: number; spec: GroupSpec }
  /** Answered by `signalled`. Nothing happens when the process is gone. */
  | { type: 'signal'; id: number; signal: GroupSignal }

/** What the spawner says. */
export type SpawnerReport =
  | { type: 'ready' }
  /** Carries the stream's handle; one that cannot be taken in is missing. */
  | { type: 'stream'; id: number; name: keyof GroupStreams }
  /** After its streams. */
  | { type: 'started'; id: number; pid: number }
  /** The process has ended and its group is killed; without `started`, it never ran. */
  | { type: 'ended'; id: number; exit: WorkerExit }
  | { type: 'signalled' }
  /** No guard could be started: should the spawner die now, nobody but the gateway kills what is left. */
  | { type: 'unguarded'; reason: string }
