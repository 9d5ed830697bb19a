import { type Point, thin, ticks } from './series.js'

export interface Series {
  label: string
  /** `noise`: the measured values behind a smoothed curve, drawn faintly. */
  tone: 'train' | 'noise' | 'validation'
  points: readonly Point[]
}

export interface Chart {
  title: string
  series: Series[]
  width: number
  height: number
  format(value: number): string
  /** Start the vertical axis at zero. */
  fromZero?: boolean
}

const margin = { top: 10, right: 14, bottom: 30, left: 54 }
const mostPoints = 1200

/** The parts of a drawing that both the page and the standalone figure use, as CSS rules for `.chart`. */
export const chartStyle = `
.chart { --train: #1f63d1; --validation: #c9480c; --grid: #e4e6ea; --ink: #1b1f24; --muted: #626b76; --surface: #ffffff }
@media (prefers-color-scheme: dark) {
  .chart { --train: #6ba6ff; --validation: #ff9d5c; --grid: #2b313a; --ink: #e8ebef; --muted: #98a1ad; --surface: #171b21 }
}
.chart text { font: 11px system-ui, sans-serif; fill: var(--muted); font-variant-numeric: tabular-nums }
.chart .title { font-size: 15px; font-weight: 600; fill: var(--ink) }
.chart .grid { stroke: var(--grid) }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.chart .train { stroke: var(--train) }
.chart .noise { stroke: var(--train); stroke-width: 1; opacity: 0.35 }
.chart .validation { stroke: var(--validation) }
.chart circle.train { fill: var(--train) }
.chart circle.validation { fill: var(--validation) }
.chart .surface { fill: var(--surface) }`

/** Where a chart's plot area lies in its drawing and what its axes span: what a pointer needs to find a step. */
export interface Frame {
  left: number
  right: number
  top: number
  bottom: number
  x: readonly [number, number]
  /** Where the horizontal grid lines are, from the lower end of the axis to the upper. */
  rows: readonly number[]
}

/** The axes of a chart whose plot begins `offset` below the top of the drawing. */
export function frameOf(chart: Chart, offset = 0): Frame {
  const all = chart.series.flatMap((series) => series.points)
  const xs = all.map(([x]) => x)
  const ys = all.map(([, y]) => y)
  return {
    left: margin.left,
    right: chart.width - margin.right,
    top: offset + margin.top,
    bottom: chart.height - margin.bottom,
    x: [0, Math.max(most(xs), 1)],
    rows: ticks(chart.fromZero ? 0 : least(ys), most(ys), 5),
  }
}

// Math.min(...values) would overflow the stack on a long run.
const least = (values: number[]) => values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY)
const most = (values: number[]) => values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)

/** Grid, axis labels and curves, as SVG elements for a parent with the class `chart`. */
export function drawPlot(chart: Chart, frame: Frame): string {
  const x = (value: number) => round(frame.left + ratio(value, frame.x) * (frame.right - frame.left))
  const span = [frame.rows[0], frame.rows[frame.rows.length - 1]] as const
  const y = (value: number) => round(frame.bottom - ratio(value, span) * (frame.bottom - frame.top))
  const rows = frame.rows.map(
    (value) =>
      `<line class="grid" x1="${frame.left}" x2="${frame.right}" y1="${y(value)}" y2="${y(value)}"/>` +
      `<text x="${frame.left - 8}" y="${y(value) + 4}" text-anchor="end">${escapeMarkup(chart.format(value))}</text>`,
  )
  const columns = ticks(frame.x[0], frame.x[1], 6)
    .filter((value) => value <= frame.x[1] && Number.isInteger(value))
    .map((value) => `<text x="${x(value)}" y="${frame.bottom + 18}" text-anchor="middle">${value}</text>`)
  const curves = chart.series.filter(({ points }) => points.length > 0).map((series) => drawSeries(series, x, y))
  const unit = `<text x="${frame.left - 8}" y="${frame.bottom + 18}" text-anchor="end">step</text>`
  return [...rows, unit, ...columns, ...curves].join('\n')
}

type Scale = (value: number) => number

function drawSeries({ points, tone }: Series, x: Scale, y: Scale): string {
  const path = thin(points, mostPoints).map(([px, py]) => `${x(px)} ${y(py)}`)
  const line = `<path class="line ${tone}" d="M${path.join('L')}"/>`
  const marked = tone === 'validation' && points.length <= 40 ? points : tone === 'noise' ? [] : points.slice(-1)
  const dots = marked.map(([px, py]) => `<circle class="${tone}" cx="${x(px)}" cy="${y(py)}" r="3"/>`)
  return line + dots.join('')
}

const ratio = (value: number, [low, high]: readonly [number, number]) => (value - low) / (high - low)
const round = (value: number) => Math.round(value * 10) / 10

/** A chart with title and legend as an SVG file of its own, light or dark as the reader's system is. */
export function standaloneSvg(chart: Chart): string {
  const frame = frameOf(chart, 46)
  const shown = chart.series.filter(({ points }) => points.length > 0)
  let at = frame.left
  const legend = shown.map(({ label, tone }) => {
    const entry = `<line class="line ${tone}" x1="${at}" x2="${at + 18}" y1="42" y2="42"/><text x="${at + 24}" y="46">${escapeMarkup(label)}</text>`
    at += 48 + label.length * 6
    return entry
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 ${chart.width} ${chart.height}" width="${chart.width}" height="${chart.height}" role="img">
<title>${escapeMarkup(chart.title)}</title>
<style>${chartStyle}</style>
<rect class="surface" width="100%" height="100%" rx="8"/>
<text class="title" x="${frame.left}" y="24">${escapeMarkup(chart.title)}</text>
${legend.join('\n')}
${drawPlot(chart, frame)}
</svg>
`
}

/** Makes any text safe inside an element or a quoted attribute. */
export function escapeMarkup(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
  return text.replace(/[&<>"']/g, (character) => entities[character])
}
