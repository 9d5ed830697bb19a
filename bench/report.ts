import { formatNumber } from '#lib/format.js'
import type { Limits, Score } from './contest.js'

/** One benchmark's outcome. */
export interface Section {
  title: string
  unit: string
  scores: Score[]
  /** The most that the machine could do, in the unit. */
  limit: number
  /** What the limit is made of. */
  limitSays: string
  limits: Limits
}

/** The peer that ratios are to: the fastest. */
export function reference(scores: Score[]): Score | undefined {
  return scores.filter(({ peer }) => peer).sort((a, b) => b.rate - a.rate)[0]
}

/** Rows of cells, the first column to the left and the others to the right; a column that is all empty is left out. */
export function table(cells: string[][]): string {
  const used = cells[0].map((_, column) => cells.some((row) => row[column] !== ''))
  const rows = cells.map((row) => row.filter((_, column) => used[column]))
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)))
  return rows
    .map((row) => `  ${row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('   ')}`)
    .join('\n')
}

export const times = (ratio: number) => `${ratio.toFixed(2)}×`
export const percent = (share: number) => `${Math.round(100 * share)} %`

export function formatSection({ title, unit, scores, limit, limitSays }: Section): string {
  const peer = reference(scores)
  const rows = scores.map((score) => [
    score.label,
    formatNumber(score.rate),
    peer ? times(score.rate / peer.rate) : '',
    percent(score.rate / limit),
    `${(score.peakMemory / 2 ** 30).toFixed(2)} GiB`,
  ])
  return [
    title,
    table([['', unit, peer ? 'to the peer' : '', 'of the limit', 'peak memory'], ...rows]),
    `  The limit, ${formatNumber(limit)} ${unit}: ${limitSays}.`,
  ].join('\n')
}
