import type { Sql } from '../../db/client.ts'

const AGENT = {
  id: 'assistant',
  name: 'Assistant',
  description: 'A helpful assistant that answers with the default model.',
  instructions: 'You are a helpful assistant. Answer clearly and briefly.',
}

/** The agent that a new organization has: it answers whoever names none. Nothing happens where it is there already. */
export async function ensureDefaultAgent(tx: Sql, organizationId: string): Promise<void> {
  await tx`
    insert into agents (organization_id, id, name, description, instructions, is_default)
    values (${organizationId}, ${AGENT.id}, ${AGENT.name}, ${AGENT.description}, ${AGENT.instructions}, true)
    on conflict do nothing`
}
