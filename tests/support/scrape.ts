import { expect } from 'vitest'
import type { Program } from './gateway.ts'

/** What a scraper reads: the value of each series by its name and labels as they are written. */
export interface Scrape {
  readonly text: string
  /** The series' value; undefined where there is none. */
  value(series: string): number | undefined
  /** Sum of all series of a metric, whatever their labels. */
  sum(name: string): number
  /** The values of one label among the series of a metric. */
  labels(name: string, label: string): string[]
}

/** Scrapes a gateway that was started with `METRICS_PORT`. */
export async function scrape(gateway: Program, headers: Record<string, string> = {}): Promise<Scrape> {
  const { port } = await gateway.logged('metrics listening')
  const answer = await fetch(`http://127.0.0.1:${port}/metrics`, { headers })
  const text = await answer.text()
  expect(answer.status, text).toBe(200)
  const series = text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const at = line.lastIndexOf(' ')
      return [line.slice(0, at), Number(line.slice(at + 1))] as const
    })
  const values = new Map(series)
  const of = (name: string) => series.filter(([key]) => key === name || key.startsWith(`${name}{`))
  return {
    text,
    value: (key) => values.get(key),
    sum: (name) => of(name).reduce((total, [, value]) => total + value, 0),
    labels: (name, label) => [
      ...new Set(of(name).flatMap(([key]) => new RegExp(`[{,]${label}="([^"]*)"`).exec(key)?.[1] ?? [])),
    ],
  }
}
