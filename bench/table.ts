/** The lines of the result table, and what they say about the goals of docs/performance.md. */

/** One line of the result table. */
export interface Row {
  name: string
  ours: number
  /** The peer or the raw floor, measured in the same run, in turn with ours. */
  peer?: { name: string; value: number } | undefined
  unit: string
  /**
   * `≥ 4×` is a goal for the ratio, `≤ 3 ms` one for our own figure, in the row's unit. Several are parted by `; ` and must all
   * be met. What stands in brackets behind them is the stretch, for the reader: `≥ 4×; ≥ 5× (≥ 6×)`.
   */
  goal?: string | undefined
  /** What a reader must know to read the figure. */
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

/** A line for each row that misses a goal: what, by how much, and which. */
export function missedGoals(rows: Row[]): string[] {
  let last = ''
  return rows.flatMap((row) => {
    const name = row.name.replace(/^the same/, last)
    if (!row.name.startsWith('the same')) last = row.name
    const missed = missedBy(row)
    if (missed.length === 0) return []
    const ratio = row.peer ? `, ${figure(row.ours / row.peer.value)}× ${row.peer.name}` : ''
    return `${name}: ${`${figure(row.ours)} ${row.unit}`.trim()}${ratio}; goal ${missed.join(', ')}`
  })
}

function verdict(row: Row): string {
  const goals = goalsOf(row)
  if (goals.length === 0) return ''
  const missed = missedBy(row)
  if (missed.length === 0) return 'yes'
  return missed.length === goals.length ? '**no**' : `**no**: ${missed.join(', ')}`
}

function goalsOf({ goal = '' }: Row): string[] {
  return goal.split(' (')[0]!.split('; ').filter(Boolean)
}

/** A figure that could not be had meets nothing. */
function missedBy(row: Row): string[] {
  return goalsOf(row).filter((goal) => {
    const [, sign, text, unit] = /^([≤≥=]) ([\d.,]+)(×?)/.exec(goal)!
    const value = unit === '×' ? row.ours / row.peer!.value : row.ours
    const bound = Number(text!.replaceAll(',', ''))
    if (sign === '=') return value !== bound
    return !(sign === '≤' ? value <= bound : value >= bound)
  })
}

function figure(value: number): string {
  if (!Number.isFinite(value)) return '–'
  return value >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)))
}
