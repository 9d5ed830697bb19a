import { axisLabels, logTicks, type Point, thin, ticks } from './series.js'

export interface Series {
  label: string
  /** `noise`: the measured values behind a smoothed curve, drawn faintly. */
  tone: 'train' | 'noise' | 'validation'
  points: readonly Point[]
}

export interface Chart {
  title: string
  series: Series[]
  /** Formats a value for display, always with the same number of digits. */
  format(value: number): string
  /** Formats a value for a grid line, without unnecessary digits. */
  formatTick(value: number): string
  /** Start the vertical axis at zero. */
  fromZero?: boolean
  /**
   * Use a logarithmic vertical axis for values that span a decade or more; on a linear one their later part looks flat.
   */
  logarithmic?: boolean
}

const mostPoints = 1200

/** CSS rules for `.chart`, shared by the page and the standalone figure. */
export const chartStyle = `
.chart { --train: #1f63d1; --validation: #c9480c; --grid: #e4e6ea; --ink: #1b1f24; --muted: #626b76; --surface: #ffffff }
@media (prefers-color-scheme: dark) {
  .chart { --train: #6ba6ff; --validation: #ff9d5c; --grid: #2b313a; --ink: #e8ebef; --muted: #98a1ad; --surface: #171b21 }
}
.chart text { font: 11px system-ui, sans-serif; fill: var(--muted); font-variant-numeric: tabular-nums }
.chart .title { font-size: 15px; font-weight: 600; fill: var(--ink) }
.chart .grid { stroke: var(--grid) }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke }
.chart .train { stroke: var(--train) }
.chart .noise { stroke: var(--train); stroke-width: 1; opacity: 0.35 }
.chart .validation { stroke: var(--validation) }
.chart circle.train { fill: var(--train) }
.chart circle.validation { fill: var(--validation) }
.chart .surface { fill: var(--surface) }`

/** The axes of a chart. */
export interface Axes {
  x: readonly [first: number, last: number]
  /** Positions of the horizontal grid lines, from the lower end of the axis to the upper. */
  rows: readonly number[]
  isLog: boolean
}

export function axesOf(chart: Chart): Axes {
  const all = chart.series.flatMap((series) => series.points)
  const xs = all.map(([x]) => x)
  const ys = all.map(([, y]) => y)
  const [low, high] = [least(ys), most(ys)]
  const isLog = chart.logarithmic === true && low > 0 && high / low >= 10
  return {
    x: [0, Math.max(most(xs), 1)],
    rows: isLog ? logTicks(low, high) : ticks(chart.fromZero ? 0 : low, high, 5),
    isLog,
  }
}

// Math.min(...values) would overflow the stack on a long run.
const least = (values: number[]) => values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY)
const most = (values: number[]) => values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)

/**
 * Grid, axis labels, and curves, as the content of an `<svg>` with the size of the plot area. Positions are fractions
 * of that size, so the same drawing fits any width while its text keeps its size. Curves are in coordinates of a
 * `width` by `height` plot and are stretched.
 */
export function drawPlot(chart: Chart, axes: Axes, width: number, height: number): string {
  const vertical = axes.isLog ? Math.log : (value: number) => value
  const span = [vertical(axes.rows[0]), vertical(axes.rows[axes.rows.length - 1])] as const
  const x = (value: number) => ratio(value, axes.x)
  const y = (value: number) => 1 - ratio(vertical(value), span)
  const labels = axisLabels(axes.rows, chart.formatTick, axes.isLog)
  const rows = axes.rows.map((value, i) => {
    const at = percent(y(value))
    return (
      `<line class="grid" x1="0" x2="100%" y1="${at}" y2="${at}"/>` +
      `<text x="-8" y="${at}" dy="4" text-anchor="end">${escapeMarkup(labels[i])}</text>`
    )
  })
  const columns = ticks(axes.x[0], axes.x[1], 5).filter((value) => value <= axes.x[1] && Number.isInteger(value))
  const shortened = columns[columns.length - 1] >= 10_000
  const steps = columns.map((value) => {
    const text = shortened && value > 0 ? `${value / 1000}k` : value
    return `<text x="${percent(x(value))}" y="100%" dy="18" text-anchor="middle">${text}</text>`
  })
  const shown = chart.series.filter(({ points }) => points.length > 0)
  const curves = shown.map(({ tone, points }) => {
    const path = thin(points, mostPoints).map(([px, py]) => `${round(x(px) * width)} ${round(y(py) * height)}`)
    return `<path class="line ${tone}" d="M${path.join('L')}"/>`
  })
  const dots = shown.flatMap(({ tone, points }) => {
    const marked = tone === 'validation' && points.length <= 40 ? points : tone === 'noise' ? [] : points.slice(-1)
    return marked.map(([px, py]) => `<circle class="${tone}" cx="${percent(x(px))}" cy="${percent(y(py))}" r="3"/>`)
  })
  return [
    ...rows,
    '<text x="-8" y="100%" dy="18" text-anchor="end">step</text>',
    ...steps,
    `<svg width="100%" height="100%" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" overflow="visible">`,
    ...curves,
    '</svg>',
    ...dots,
  ].join('\n')
}

const ratio = (value: number, [low, high]: readonly [number, number]) => (value - low) / (high - low)
const round = (value: number) => Math.round(value * 10) / 10
const percent = (share: number) => `${Number((100 * share).toFixed(2))}%`

const margin = { top: 56, right: 14, bottom: 30, left: 54 }

/** A chart with title and legend as a separate SVG file; light or dark like the reader's system. */
export function standaloneSvg(chart: Chart, width: number, height: number): string {
  const shown = chart.series.filter(({ points }) => points.length > 0)
  let at = margin.left
  const legend = shown.map(({ label, tone }) => {
    const entry = `<line class="line ${tone}" x1="${at}" x2="${at + 18}" y1="38" y2="38"/><text x="${at + 24}" y="42">${escapeMarkup(label)}</text>`
    at += 48 + label.length * 6
    return entry
  })
  const plot = { width: width - margin.left - margin.right, height: height - margin.top - margin.bottom }
  const title = shortened(chart.title, (width - margin.left - margin.right) / 9)
  return `<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
<title>${escapeMarkup(chart.title)}</title>
<style>${chartStyle}</style>
<rect class="surface" width="100%" height="100%" rx="8"/>
<text class="title" x="${margin.left}" y="22">${escapeMarkup(title)}</text>
${legend.join('\n')}
<svg x="${margin.left}" y="${margin.top}" width="${plot.width}" height="${plot.height}" overflow="visible">
${drawPlot(chart, axesOf(chart), plot.width, plot.height)}
</svg>
</svg>
`
}

/** A text of at most `length` characters. */
function shortened(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, Math.floor(length) - 1)}…`
}

/** Escapes text for use in an element or a quoted attribute. */
export function escapeMarkup(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
  return text.replace(/[&<>"']/g, (character) => entities[character])
}
