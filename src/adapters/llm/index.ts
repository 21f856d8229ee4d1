import { anthropic } from './anthropic.ts'
import type { ModelProvider } from './contract.ts'
import { demo } from './demo.ts'
import { google } from './google.ts'
import { openai } from './openai.ts'
import { openaiCompatible } from './openai-compatible.ts'

/** Every provider, in the order in which pages and readiness show them. */
export const modelProviders: readonly ModelProvider[] = [anthropic, openai, google, openaiCompatible, demo]
