/** What `http.ts` compares with: `hono`, a bare Hono handler that does one INSERT; `node`, node:http with zod and no database. */
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import postgres from 'postgres'
import { z } from 'zod'

const Message = z.object({ content: z.string().max(100_000), messageId: z.string().max(200).optional() })

const [kind, url] = process.argv.slice(2)
const started = ({ port }: { port: number }) => process.send!({ port })
if (kind === 'hono') serveHono(postgres(url!, { max: 10 }))
else serveNode()
process.on('disconnect', () => process.exit(0))

function serveHono(sql: postgres.Sql) {
  const app = new Hono()
  app.post('/:id', async (c) => {
    const { content } = await c.req.json<{ content: string }>()
    const [row] = await sql`
      insert into bench_messages (conversation_id, content) values (${c.req.param('id')}, ${content}) returning id`
    return c.json({ success: true, messageId: row!.id })
  })
  serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, started)
}

function serveNode() {
  const server = createServer(async (req, res) => {
    const parsed = Message.safeParse(JSON.parse(await readBody(req)))
    const body = JSON.stringify(
      parsed.success ? { success: true, length: parsed.data.content.length } : { error: 'no' },
    )
    res.writeHead(parsed.success ? 200 : 400, { 'content-type': 'application/json', 'content-length': body.length })
    res.end(body)
  })
  server.listen(0, '127.0.0.1', () => started(server.address() as AddressInfo))
}

async function readBody(req: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of req) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}
