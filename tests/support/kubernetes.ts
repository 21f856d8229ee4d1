import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import type { KubernetesObject } from './helm.ts'

/**
 * Checks objects as an API server does that is told to be strict. The schemas are those of Kubernetes' own OpenAPI
 * document, as the package `kubernetes-models` has them; its version 5.1.0 knows fields that came with Kubernetes 1.36
 * (`schedulingGroup` of a pod). They find wrong types, values and missing fields. Fields that do not exist, such as
 * misspelt ones, they let pass: those are found by the package's type declarations.
 */

const require = createRequire(import.meta.url)
const rootOf = (name: string) => {
  const entry = require.resolve.paths(name)!.map((folder) => path.join(folder, name))
  return entry.find((folder) => existsSync(path.join(folder, 'package.json')))!
}
const MODELS = 'kubernetes-models'
const PROMETHEUS = '@kubernetes-models/prometheus-operator'

interface Declared {
  /** Type of each field as it is written. */
  fields: Map<string, string>
  /** Name of each imported type, and the file that declares it. */
  imports: Map<string, string>
}

const declarations = new Map<string, Declared>()

/** What is wrong with an object, a sentence each. */
export async function checkObject(object: KubernetesObject): Promise<string[]> {
  const { apiVersion, kind } = object
  const name = `${kind} ${object.metadata?.name}`
  const home = apiVersion.startsWith('monitoring.coreos.com/') ? PROMETHEUS : MODELS
  const model = (await import(`${home}/${apiVersion}/${kind}`)) as Record<string, Model>
  const faults = unknownFields(object, path.join(rootOf(home), apiVersion, `${kind}.d.ts`), '')
  try {
    new model[kind]!(object).validate()
  } catch (error) {
    faults.push((error as Error).message)
  }
  return faults.map((fault) => `${name}: ${fault}`)
}

type Model = new (data: object) => { validate(): void }

function unknownFields(value: KubernetesObject, file: string, at: string): string[] {
  const { fields, imports } = readDeclaration(file)
  // A type that is no object, such as a time or a quantity.
  if (fields.size === 0) return []
  return Object.entries(value).flatMap(([key, inner]) => {
    const type = fields.get(key)
    if (type === undefined) return [`${at}/${key} does not exist`]
    const target = [...imports].find(([name]) => new RegExp(`\\b${name}\\b`).test(type))?.[1]
    if (target === undefined || inner === null || typeof inner !== 'object') return []
    if (Array.isArray(inner)) return inner.flatMap((one, index) => unknownFields(one, target, `${at}/${key}/${index}`))
    if (!type.startsWith('{')) return unknownFields(inner, target, `${at}/${key}`)
    return Object.entries(inner).flatMap(([entry, one]) =>
      one !== null && typeof one === 'object' ? unknownFields(one, target, `${at}/${key}/${entry}`) : [],
    )
  })
}

/** Reads `export interface IX { "field"?: Type; … }` of a generated file, and where its imported types come from. */
function readDeclaration(file: string): Declared {
  const known = declarations.get(file)
  if (known) return known
  const text = readFileSync(file, 'utf8').replaceAll(/\/\*[\s\S]*?\*\//g, '')
  const imports = new Map<string, string>()
  for (const [, name, from] of text.matchAll(/^import \{ (I\w+) \} from "([^"]+)";/gm))
    imports.set(name!, locate(from!, file))
  const [, heritage = '', body = ''] = /export interface I\w+(?: extends ([^{]+))? \{\n([\s\S]*?)\n\}/.exec(text) ?? []
  const fields = new Map<string, string>()
  for (const base of heritage.split(',')) {
    const target = imports.get(base.trim())
    if (target !== undefined) {
      const inherited = readDeclaration(target)
      for (const [name, type] of inherited.fields) fields.set(name, type)
      for (const [name, where] of inherited.imports) imports.set(name, where)
    }
  }
  for (const [, name, type] of body.matchAll(/^ {4}"([^"]+)"\??: (\{[\s\S]*?^ {4}\}|[^;]+);/gm))
    fields.set(name!, type!)
  const declared = { fields, imports }
  declarations.set(file, declared)
  return declared
}

function locate(from: string, file: string): string {
  if (from.startsWith('.')) return path.join(path.dirname(file), from.replace(/\.js$/, '.d.ts'))
  const name = from.split('/').slice(0, from.startsWith('@') ? 2 : 1)
  return `${path.join(rootOf(name.join('/')), ...from.split('/').slice(name.length))}.d.ts`
}
