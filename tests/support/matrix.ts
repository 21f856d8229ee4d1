import type { Permission } from '../../src/domain/accounts/permissions.ts'

/**
 * What an operation asks of its caller: a permission in the organization; `conversation`, which a conversation's own
 * session token has as well; `person`, somebody who acts for themselves; `member`, anybody of the organization; or nothing.
 */
export type Demand = Permission | 'conversation' | 'person' | 'member' | 'nothing'

/** Bodies that pass validation, so that what refuses is the question who asks. */
const LIMITS = {
  ...{ requestsPerMinute: null, keyRequestsPerMinute: null, runsMax: null },
  ...{ tokensPerMonth: null, costMicrosPerMonth: null },
}

/** Every operation of the API. One that is missing here, or that is no more, fails the build. */
export const OPERATIONS: Record<string, { demand: Demand; body?: unknown }> = {
  'GET /health': { demand: 'nothing' },
  'GET /health/ready': { demand: 'nothing' },
  'GET /sign-in/options': { demand: 'nothing' },
  'POST /setup': { demand: 'nothing' },
  'POST /invite': { demand: 'nothing' },
  'GET /invite/held': { demand: 'nothing' },
  'POST /invite/accept': { demand: 'nothing' },

  'GET /api/account/apps': { demand: 'person' },
  'DELETE /api/account/apps/{clientId}': { demand: 'person' },
  'GET /api/organizations': { demand: 'member' },
  'POST /api/organizations': { demand: 'person', body: { name: 'Another' } },
  'POST /api/invitations/accept': { demand: 'person', body: { token: 'no-such-token' } },

  'POST /api/v1/agents': { demand: 'conversations:use', body: { agentId: 'assistant', thread: 'matrix' } },
  'GET /api/v1/agents': { demand: 'agents:read' },
  'GET /api/v1/agents/{id}': { demand: 'conversation' },
  'DELETE /api/v1/agents/{id}': { demand: 'conversation' },
  'POST /api/v1/agents/{id}/messages': { demand: 'conversation', body: { content: '/echo matrix' } },
  'POST /api/v1/agents/{id}/cancel': { demand: 'conversation', body: {} },
  'GET /api/v1/agents/{id}/events': { demand: 'conversation' },
  'GET /api/v1/runs/{runId}': { demand: 'conversation' },
  'GET /api/v1/agents/{id}/history/session/messages': { demand: 'conversation' },
  'GET /api/v1/agents/{id}/history/session/stats': { demand: 'conversation' },
  'GET /api/v1/agents/{id}/history/status': { demand: 'conversation' },

  'GET /api/{org}': { demand: 'member' },
  'PATCH /api/{org}': { demand: 'organization:write', body: { name: 'Renamed' } },
  'DELETE /api/{org}': { demand: 'organization:delete' },
  'GET /api/{org}/permissions': { demand: 'member' },
  'GET /api/{org}/members': { demand: 'members:read' },
  'PATCH /api/{org}/members/{userId}': { demand: 'members:write', body: { role: 'viewer' } },
  'DELETE /api/{org}/members/{userId}': { demand: 'members:write' },
  'POST /api/{org}/leave': { demand: 'person' },
  'POST /api/{org}/transfer': { demand: 'organization:delete', body: { userId: 'nobody' } },
  'POST /api/{org}/invitations': { demand: 'members:write', body: { role: 'viewer' } },
  'GET /api/{org}/invitations': { demand: 'members:read' },
  'DELETE /api/{org}/invitations/{invitationId}': { demand: 'members:write' },
  'GET /api/{org}/tokens': { demand: 'keys:read' },
  'POST /api/{org}/tokens': { demand: 'keys:write', body: { name: 'matrix' } },
  'POST /api/{org}/tokens/{tokenId}/rotate': { demand: 'keys:write', body: {} },
  'DELETE /api/{org}/tokens/{tokenId}': { demand: 'keys:write' },
  'GET /api/{org}/sign-in-providers': { demand: 'organization:write' },
  'POST /api/{org}/sign-in-providers': {
    demand: 'organization:write',
    body: { name: 'Planted', issuer: 'https://idp.example', clientId: 'x', clientSecret: 'planted-value' },
  },
  'DELETE /api/{org}/sign-in-providers/{providerId}': { demand: 'organization:write' },
  'GET /api/{org}/audit': { demand: 'audit:read' },
  'GET /api/{org}/audit/retention': { demand: 'audit:read' },
  'PUT /api/{org}/audit/retention': { demand: 'audit:read', body: { days: 1 } },
  'GET /api/{org}/audit.csv': { demand: 'audit:read' },
  'GET /api/{org}/agents': { demand: 'agents:read' },
  'POST /api/{org}/agents': { demand: 'agents:write', body: { agentId: 'planted', name: 'Planted' } },
  'GET /api/{org}/agents/{agentId}': { demand: 'agents:read' },
  'PATCH /api/{org}/agents/{agentId}': { demand: 'agents:write', body: { name: 'Renamed' } },
  'DELETE /api/{org}/agents/{agentId}': { demand: 'agents:write' },
  'GET /api/{org}/dead-letters': { demand: 'organization:write' },
  'POST /api/{org}/dead-letters/{id}/replay': { demand: 'organization:write' },
  'DELETE /api/{org}/dead-letters/{id}': { demand: 'organization:write' },
  'GET /api/{org}/secrets': { demand: 'secrets:read' },
  'PUT /api/{org}/secrets/{name}': { demand: 'secrets:write', body: { value: 'planted-value' } },
  'DELETE /api/{org}/secrets/{name}': { demand: 'secrets:write' },
  'GET /api/{org}/agents/{agentId}/secrets': { demand: 'secrets:read' },
  'PUT /api/{org}/agents/{agentId}/secrets/{name}': { demand: 'secrets:write', body: { value: 'planted-value' } },
  'DELETE /api/{org}/agents/{agentId}/secrets/{name}': { demand: 'secrets:write' },
  'GET /api/{org}/providers': { demand: 'secrets:read' },
  'PUT /api/{org}/providers/{provider}/api-key': { demand: 'secrets:write', body: { value: 'planted-value' } },
  'DELETE /api/{org}/providers/{provider}/api-key': { demand: 'secrets:write' },
  'PUT /api/{org}/agents/{agentId}/providers/{provider}/api-key': {
    demand: 'secrets:write',
    body: { value: 'planted-value' },
  },
  'DELETE /api/{org}/agents/{agentId}/providers/{provider}/api-key': { demand: 'secrets:write' },
  'GET /api/{org}/webhooks/key': { demand: 'keys:read' },
  'GET /api/{org}/usage': { demand: 'usage:read' },
  'GET /api/{org}/usage.csv': { demand: 'usage:read' },
  'GET /api/{org}/limits': { demand: 'usage:read' },
  'PUT /api/{org}/limits': { demand: 'limits:write', body: LIMITS },
}

/** Operations on an object that the path names beside the organization. */
export const closed = Object.entries(OPERATIONS).filter(([, { demand }]) => demand !== 'nothing')
