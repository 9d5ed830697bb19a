import { chartStyle } from './chart.js'

/** The look of the report; light or dark as the reader's system is. */
export const pageStyle = `
:root { color-scheme: light dark; --page: #f5f6f8; --card: #ffffff; --text: #1b1f24; --soft: #626b76; --edge: #e4e6ea; --code: #f0f2f5 }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f1217; --card: #171b21; --text: #e8ebef; --soft: #98a1ad; --edge: #2b313a; --code: #20262e }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 32px 20px 64px; max-width: 1080px; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 26px; letter-spacing: -0.01em }
h2 { margin: 36px 0 12px; font-size: 17px }
header p { margin: 4px 0 24px; color: var(--soft) }
.notice { padding: 10px 16px; border-left: 3px solid #c9480c; background: var(--card) }
.tiles, .charts { display: grid; gap: 14px }
.tiles { grid-template-columns: repeat(4, 1fr); margin-bottom: 14px }
@media (max-width: 600px) { .tiles { grid-template-columns: repeat(2, 1fr) } }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)) }
.tile, figure, .card { margin: 0; padding: 14px 16px; border: 1px solid var(--edge); border-radius: 10px; background: var(--card) }
.tile b { display: block; font-size: 22px; line-height: 1.25; font-weight: 650; white-space: nowrap; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: 13px }
figure.wide { grid-column: 1 / -1 }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; margin-bottom: 4px; font-size: 13px; font-variant-numeric: tabular-nums }
figcaption strong { font-size: 15px; margin-right: auto }
figcaption .key::before { content: ''; display: inline-block; width: 14px; height: 0; margin: 0 6px 4px 0; border-top: 2px solid var(--tone) }
figcaption .at { color: var(--soft) }
svg.chart { display: block; width: 100%; height: auto; touch-action: pan-y }
.chart .cursor { stroke: var(--muted); stroke-dasharray: 3 3; visibility: hidden }
svg.on-phone { display: none }
@media (max-width: 600px) { svg.on-desk { display: none } svg.on-phone { display: block } }
.card { margin-bottom: 14px; overflow-x: auto }
.card pre { margin: 6px 0 0; padding: 10px 12px; border-radius: 6px; background: var(--code); white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace }
.card small { color: var(--soft) }
summary { cursor: pointer; color: var(--soft); margin-top: 8px }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums }
td, th { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--edge); text-align: left; font-weight: normal; vertical-align: top; overflow-wrap: anywhere }
th { color: var(--soft); white-space: nowrap }
tr:last-child > * { border-bottom: 0 }
.chart, figcaption { --train: #1f63d1; --validation: #c9480c }
@media (prefers-color-scheme: dark) { .chart, figcaption { --train: #6ba6ff; --validation: #ff9d5c } }
${chartStyle}`

/**
 * Runs in the reader's browser: the pointer marks one step in all charts and shows their values there. A figure has
 * its points as JSON in `data-series`, a drawing its frame in `data-frame`; the values at rest are the last ones.
 */
export const pageScript = `
const figures = [...document.querySelectorAll('figure')].map((figure) => ({
  at: figure.querySelector('.at'),
  outputs: [...figure.querySelectorAll('output')].map((output) => ({ output, rest: output.textContent })),
  series: JSON.parse(figure.dataset.series),
}))
const drawings = [...document.querySelectorAll('svg.chart')].map((svg) => ({
  svg,
  cursor: svg.querySelector('.cursor'),
  frame: JSON.parse(svg.dataset.frame),
}))
for (const { svg, frame } of drawings) {
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect()
    const px = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width
    const share = Math.min(1, Math.max(0, (px - frame.left) / (frame.right - frame.left)))
    show(Math.round(frame.x[0] + share * (frame.x[1] - frame.x[0])))
  })
  svg.addEventListener('pointerleave', () => show(null))
}
function show(step) {
  for (const { cursor, frame } of drawings) {
    cursor.style.visibility = step === null ? 'hidden' : 'visible'
    const share = ((step ?? 0) - frame.x[0]) / (frame.x[1] - frame.x[0])
    const px = frame.left + share * (frame.right - frame.left)
    cursor.setAttribute('x1', px)
    cursor.setAttribute('x2', px)
  }
  for (const { at, outputs, series } of figures) {
    at.textContent = step === null ? '' : 'step ' + step
    outputs.forEach(({ output, rest }, i) => {
      output.textContent = step === null ? rest : nearest(series[i], step)
    })
  }
}
function nearest(points, step) {
  const distance = ([x]) => Math.abs(x - step)
  return points.reduce((best, point) => (distance(point) < distance(best) ? point : best))[1]
}`
