/** Draws a benchmark as a bar chart: SVG that is readable on a light and on a dark page. */
import { escapeMarkup } from '#lib/train/report/chart.js'
import type { Presentation } from './report.js'

const style = `
.chart { --ours: #1f63d1; --other: #aeb6c0; --mark: #c9480c; --ink: #1b1f24; --muted: #626b76; --surface: #ffffff }
@media (prefers-color-scheme: dark) {
  .chart { --ours: #6ba6ff; --other: #59626d; --mark: #ff9d5c; --ink: #e8ebef; --muted: #98a1ad; --surface: #171b21 }
}
.chart text { font: 12px system-ui, sans-serif; fill: var(--ink); font-variant-numeric: tabular-nums }
.chart .title { font-size: 14px; font-weight: 600 }
.chart .unit { fill: var(--muted) }
.chart .mark { stroke: var(--mark); stroke-dasharray: 4 3 }
.chart .says { fill: var(--mark) }
.chart .ours { fill: var(--ours) }
.chart .other { fill: var(--other) }
.chart .surface { fill: var(--surface) }`

const width = 760
const edge = 16
/** The left end of the bars, and their maximum length: the space to the right is a column for their values. */
const left = 250
const longest = width - left - 90
const rowHeight = 24

export function drawChart({ title, chart }: Presentation): string {
  const { bars, mark, unit, scale } = chart
  const position = scaleOf(chart)
  const lines = wrap(title[0].toUpperCase() + title.slice(1), (width - 2 * edge) / 8)
  const names = 30 + 18 * lines.length // the line with the unit and the mark's name
  const top = names + 14
  const height = top + bars.length * rowHeight + 14
  const base = scale === 'log' ? position(mark?.value ?? 1) : left
  const rows = bars.flatMap(({ label, value, text, isOurs }, i) => {
    const y = top + i * rowHeight
    const end = position(value)
    return [
      `<text x="${left - 10}" y="${y + 13}" text-anchor="end">${escapeMarkup(label)}</text>`,
      `<rect class="${isOurs ? 'ours' : 'other'}" x="${round(Math.min(base, end))}" y="${y}" width="${round(Math.abs(end - base))}" height="17" rx="2"/>`,
      `<text x="${width - edge}" y="${y + 13}" text-anchor="end">${escapeMarkup(text)}</text>`,
    ]
  })
  const at = mark && round(position(mark.value))
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escapeMarkup(title)}</title>`,
    `<style>${style}</style>`,
    '<rect class="surface" width="100%" height="100%" rx="8"/>',
    ...lines.map((line, i) => `<text class="title" x="${edge}" y="${24 + 18 * i}">${escapeMarkup(line)}</text>`),
    `<text class="unit" x="${left - 10}" y="${names}" text-anchor="end">${escapeMarkup(unit)}${scale === 'log' ? ', logarithmic' : ''}</text>`,
    ...rows,
    ...(mark
      ? [
          `<line class="mark" x1="${at}" x2="${at}" y1="${names + 6}" y2="${height - 10}"/>`,
          `<text class="says" x="${at}" y="${names}" text-anchor="middle">${escapeMarkup(mark.label)}</text>`,
        ]
      : []),
    '</svg>',
    '',
  ].join('\n')
}

/**
 * The position of a value: bars of a linear scale begin at 0; bars of a logarithmic one begin at the mark, to either
 * side.
 */
function scaleOf({ bars, mark, scale }: Presentation['chart']): (value: number) => number {
  const values = [...bars.map(({ value }) => value), ...(mark ? [mark.value] : [])]
  const most = Math.max(...values)
  if (scale === 'linear') return (value) => left + (longest * value) / most
  const least = Math.min(...values) / 1.5
  return (value) => left + (longest * Math.log(value / least)) / Math.log(most / least)
}

const round = (value: number) => value.toFixed(1)

/** Breaks a text between words into lines of at most `length` characters. */
function wrap(text: string, length: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.length - 1
    if (last >= 0 && lines[last].length + 1 + word.length <= length) lines[last] += ` ${word}`
    else lines.push(word)
  }
  return lines
}
