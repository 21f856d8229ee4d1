/**
 * Builds, then runs the gateway in this very process. `npm run dev` restarts it when a source changes; a build that
 * fails says why and waits for the next change.
 */
import { join } from 'node:path'
import { buildOrExit } from './build.ts'

await buildOrExit({ force: false })
const main = join(import.meta.dirname, '../dist/main.js')
process.argv = [process.argv[0]!, main, 'serve', ...process.argv.slice(2)]
await import(main)
