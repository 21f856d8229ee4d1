/** The lines of the result table, and what they say about the goals of docs/performance.md. */

/** One line of the result table. */
export interface Row {
  name: string
  ours: number
  /** The peer or the raw floor, measured in the same run, in turn with ours. */
  peer?: { name: string; value: number } | undefined
  unit: string
  /**
   * `≥ 4×` is a goal for the ratio, `≤ 3 ms` one for our own figure, in the row's unit; what stands behind the first number and
   * its unit is for the reader, such as `(stretch ≥ 6×)`.
   */
  goal?: string | undefined
  /** What a reader must know to read the figure; where a goal is missed, why. */
  note?: string | undefined
}

export function formatTable(rows: Row[]): string {
  const lines = rows.map((row) => {
    const { name, ours, peer, unit, goal = '', note = '' } = row
    const against = peer ? `${peer.name}: ${figure(peer.value)} ${unit}` : ''
    const ratio = peer ? `${figure(ours / peer.value)}×` : ''
    const cells = [name, `${figure(ours)} ${unit}`, against, ratio, goal, verdict(row), note]
    return `| ${cells.map((cell) => cell.trim()).join(' | ')} |`
  })
  const head = '| what | ours | peer or floor | ratio | goal | met | note |'
  return [head, '| --- | --- | --- | --- | --- | --- | --- |', ...lines].join('\n')
}

/** Names of the rows that miss their goal. */
export function missedGoals(rows: Row[]): string[] {
  return rows.filter((row) => verdict(row) === '**no**').map((row) => row.name)
}

function verdict({ ours, peer, goal }: Row): string {
  const [, sign, text, unit] = /^([≤≥]) ([\d.,]+)(×?)/.exec(goal ?? '') ?? []
  if (!sign || !text) return goal === '0' ? word(ours === 0) : ''
  const value = unit === '×' && peer ? ours / peer.value : ours
  const bound = Number(text.replaceAll(',', ''))
  return word(sign === '≤' ? value <= bound : value >= bound)
}

function word(met: boolean): string {
  return met ? 'yes' : '**no**'
}

function figure(value: number): string {
  if (!Number.isFinite(value)) return '–'
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3).replace(/\.?0+$/, '')
}
