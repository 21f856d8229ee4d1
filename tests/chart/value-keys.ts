import { readFileSync } from 'node:fs'
import path from 'node:path'
import { parse } from 'yaml'
import { CHART, type KubernetesObject } from '../support/helm.ts'

/** Values that are Kubernetes' own below, or anybody's: one key each. */
const FREE = ['app.env', 'app.resources', 'migrations.resources']

const read = (file: string) => readFileSync(path.join(CHART, file), 'utf8')

/** All keys of chart/values.yaml, as `app.autoscaling.enabled`. */
export function keysOfValues(): string[] {
  const keysOf = (object: KubernetesObject, at = ''): string[] =>
    Object.entries(object).flatMap(([key, value]: [string, KubernetesObject]) => {
      const isGroup =
        value !== null && typeof value === 'object' && !Array.isArray(value) && Object.keys(value).length > 0
      return isGroup && !FREE.includes(`${at}${key}`) ? keysOf(value, `${at}${key}.`) : [`${at}${key}`]
    })
  return keysOf(parse(read('values.yaml'))).sort()
}

/** All keys of chart/values.schema.json, but for `global`, which is Helm's. */
export function keysOfSchema(): string[] {
  const keysOf = (schema: KubernetesObject, at = ''): string[] =>
    Object.entries(schema.properties).flatMap(([key, inner]: [string, KubernetesObject]) =>
      inner.properties && !FREE.includes(`${at}${key}`) ? keysOf(inner, `${at}${key}.`) : [`${at}${key}`],
    )
  return keysOf(JSON.parse(read('values.schema.json')))
    .filter((key) => key !== 'global')
    .sort()
}
