/**
 * The schema as drizzle sees it, a file for each subject. The SQL in `src/migrations/` is what makes it; a test compares the two.
 * The organization is the first column of every key (I9), so that a query without it cannot use an index.
 */
export type { ConfidentialSettings, ConversationSettings, RunState, RunUsage, StepFinish } from './shapes.ts'
export * from './tables/accounts.ts'
export * from './tables/agents.ts'
export * from './tables/conversations.ts'
export * from './tables/governance.ts'
export * from './tables/queues.ts'
export * from './tables/sign-in.ts'
export * from './tables/streams.ts'
