/** A benchmark as a bar chart: SVG that reads on a light and on a dark page. */
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
/** Where the bars begin, how long they may be, and what is left for their values. */
const left = 250
const longest = width - left - 90
const top = 62
const rowHeight = 24

export function drawChart({ title, chart }: Presentation): string {
  const { bars, mark, unit, scale } = chart
  const values = [...bars.map(({ value }) => value), ...(mark ? [mark.value] : [])]
  const most = Math.max(...values)
  const least = scale === 'log' ? Math.min(...values) / 1.5 : 0
  const length = (value: number) => {
    const share = scale === 'log' ? Math.log(value / least) / Math.log(most / least) : value / most
    return longest * share
  }
  const height = top + bars.length * rowHeight + 14
  const rows = bars.flatMap(({ label, value, text, isOurs }, i) => {
    const y = top + i * rowHeight
    const bar = length(value).toFixed(1)
    return [
      `<text x="${left - 10}" y="${y + 13}" text-anchor="end">${escapeMarkup(label)}</text>`,
      `<rect class="${isOurs ? 'ours' : 'other'}" x="${left}" y="${y}" width="${bar}" height="17" rx="2"/>`,
      `<text x="${(left + Number(bar) + 8).toFixed(1)}" y="${y + 13}">${escapeMarkup(text)}</text>`,
    ]
  })
  const markAt = mark && (left + length(mark.value)).toFixed(1)
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escapeMarkup(title)}</title>`,
    `<style>${style}</style>`,
    '<rect class="surface" width="100%" height="100%" rx="8"/>',
    `<text class="title" x="16" y="24">${escapeMarkup(title)}</text>`,
    `<text class="unit" x="${left - 10}" y="48" text-anchor="end">${escapeMarkup(unit)}${scale === 'log' ? ', logarithmic' : ''}</text>`,
    ...rows,
    ...(mark
      ? [
          `<line class="mark" x1="${markAt}" x2="${markAt}" y1="${top - 8}" y2="${height - 10}"/>`,
          `<text class="says" x="${markAt}" y="48" text-anchor="middle">${escapeMarkup(mark.label)}</text>`,
        ]
      : []),
    '</svg>',
    '',
  ].join('\n')
}
