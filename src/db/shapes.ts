/** Shapes that columns hold, beside what SQL says of them. */

/** What a caller set for one conversation; everything else comes from the agent. */
export interface ConversationSettings {
  model?: string
  networkConfig?: { allowedDomains?: string[]; deniedDomains?: string[] }
}

/** What a caller set that may hold credentials, in headers or URLs. Stored sealed, shown to nobody. */
export interface ConfidentialSettings {
  mcpServers: Record<string, unknown>
}

export interface RunUsage {
  inputTokens: number
  outputTokens: number
  cachedInputTokens: number
}

/** How a step of a turn left it: to go on, to end well, or to fail for this reason. */
export type StepFinish = 'continues' | 'answered' | 'filtered' | 'tokensSpent'

/** The states of a run; `src/queue/runs.ts` draws how one follows another. */
export type RunState = 'queued' | 'ready' | 'delayed' | 'running' | 'absorbed' | 'completed' | 'failed' | 'cancelled'
