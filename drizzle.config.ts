import { defineConfig } from 'drizzle-kit'

/** `npm run db:generate` compares `tables.ts` with the last snapshot and writes the next SQL file, to be edited by hand. */
export default defineConfig({ dialect: 'postgresql', schema: './src/db/tables.ts', out: './src/migrations' })
