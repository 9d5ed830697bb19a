import type { Limits, Score } from './contest.js'

/** The result of one benchmark. */
export interface Section {
  title: string
  unit: string
  scores: Score[]
  /** The maximum rate of the machine, in the unit. */
  limit: number
  /** A description of the limit. */
  limitSays: string
  limits: Limits
}

/** The presentation of a benchmark: on the terminal, in the documentation, and as a chart. */
export interface Presentation {
  title: string
  /** One cell per column; a column with only empty cells is omitted. */
  header: string[]
  rows: string[][]
  /** Sentences below the table. */
  notes: string[]
  /** For each of our rows: the speedup over the peer, and the fraction of the limit, if these exist. */
  ratios: { peer: number[]; limit: number[] }
  chart: Chart
}

/** Bars, starting at 0, or on a logarithmic scale. */
export interface Chart {
  unit: string
  scale: 'linear' | 'log'
  bars: { label: string; value: number; text: string; isOurs: boolean }[]
  /** A line across the bars, such as the limit. */
  mark?: { value: number; label: string }
}

/** The peer that ratios refer to: the fastest. */
export function reference(scores: Score[]): Score | undefined {
  return scores.filter(({ peer }) => peer).sort((a, b) => b.rate - a.rate)[0]
}

/** The columns that are not completely empty. */
export function usedColumns(cells: string[][]): string[][] {
  const used = cells[0].map((_, column) => cells.some((row) => row[column] !== ''))
  return cells.map((row) => row.filter((_, column) => used[column]))
}

/** Rows of cells, the first column left-aligned and the others right-aligned; a completely empty column is omitted. */
export function table(cells: string[][]): string {
  const rows = usedColumns(cells)
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)))
  return rows
    .map((row) => `  ${row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('   ')}`)
    .join('\n')
}

export const times = (ratio: number) => `${ratio.toFixed(2)}×`
export const percent = (share: number) => `${Math.round(100 * share)} %`

/** Formats values that are shown together with the same number of decimals: four digits of the largest. */
export function sameDigits(values: number[]): (value: number) => string {
  const largest = Math.max(...values.map(Math.abs))
  const decimals = largest > 0 ? Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(largest)))) : 0
  return (value) => value.toFixed(decimals)
}

/** Formats a presentation for the terminal. */
export function formatText({ title, header, rows, notes }: Presentation): string {
  return [title, table([header, ...rows]), ...notes.map((note) => `  ${note}`)].join('\n')
}

/** One line per benchmark with ratios, with the range over its rows: the summary at the end of a run. */
export function summarize(presentations: Presentation[]): string {
  const span = (values: number[], format: (value: number) => string) => {
    if (values.length === 0) return ''
    const [least, most] = [Math.min(...values), Math.max(...values)].map(format)
    return least === most ? least : `${least} … ${most}`
  }
  const rows = presentations
    .map(({ title, ratios }) => [title, span(ratios.peer, times), span(ratios.limit, percent)])
    .filter(([, toPeer, ofLimit]) => toPeer || ofLimit)
  return rows.length > 0 ? table([['', 'to the peer', 'of the limit'], ...rows]) : ''
}

export function presentSection({ title, unit, scores, limit, limitSays }: Section): Presentation {
  const peer = reference(scores)
  const ours = scores.filter((score) => !score.peer)
  const digits = sameDigits([...scores.map(({ rate }) => rate), limit])
  const rows = scores.map((score) => [
    score.label,
    digits(score.rate),
    peer ? times(score.rate / peer.rate) : '',
    percent(score.rate / limit),
    `${(score.peakMemory / 2 ** 30).toFixed(2)} GiB`,
  ])
  return {
    title,
    header: ['', unit, peer ? 'to the peer' : '', 'of the limit', 'peak memory'],
    rows,
    notes: [`The limit, ${digits(limit)} ${unit}: ${limitSays}.`],
    ratios: {
      peer: peer ? ours.map(({ rate }) => rate / peer.rate) : [],
      limit: ours.map(({ rate }) => rate / limit),
    },
    chart: {
      unit,
      scale: 'linear',
      bars: scores.map(({ label, rate, peer }) => {
        return { label, value: rate, text: digits(rate), isOurs: !peer }
      }),
      mark: { value: limit, label: 'the limit' },
    },
  }
}
