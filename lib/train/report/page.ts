import { chartStyle } from './chart.js'

/** The style of the report; light or dark like the reader's system. */
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
.tiles { grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); margin-bottom: 14px }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)) }
.tile, figure, .card { margin: 0; padding: 14px 16px; border: 1px solid var(--edge); border-radius: 10px; background: var(--card) }
.tile b { display: block; font-size: 22px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: 13px }
figure.wide { grid-column: 1 / -1 }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; margin-bottom: 4px; font-size: 12px; font-variant-numeric: tabular-nums }
figcaption strong { font-size: 15px; margin-right: auto }
figcaption .key::before { content: ''; display: inline-block; width: 14px; height: 0; margin: 0 6px 4px 0; border-top: 2px solid var(--tone) }
figcaption .at { color: var(--soft) }
.chart { display: block; width: calc(100% - 68px); height: 180px; margin: 14px 14px 28px 54px; overflow: visible; touch-action: pan-y }
.wide:first-child .chart { height: 320px }
.chart .cursor { stroke: var(--muted); stroke-dasharray: 3 3; visibility: hidden }
.card { margin-bottom: 14px; overflow-x: auto }
.card pre { margin: 6px 0 0; padding: 10px 12px; border-radius: 6px; background: var(--code); white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace }
.card small { color: var(--soft) }
summary { cursor: pointer; color: var(--soft); margin-top: 8px }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 0 36px; margin: 0; font-size: 13px; font-variant-numeric: tabular-nums }
.facts div { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 12px; padding: 4px 0; border-bottom: 1px solid var(--edge) }
.facts dt { color: var(--soft) }
.facts dd { margin: 0; max-width: 100%; overflow-wrap: anywhere }
@media (max-width: 600px) {
  body { padding: 20px 12px 48px }
  .tiles { grid-auto-flow: row; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px }
  .tile:last-child:nth-child(odd) { grid-column: 1 / -1 }
  .tile, figure, .card { padding: 12px }
  .tile b { font-size: 19px }
  .chart { width: calc(100% - 52px); margin-left: 46px; margin-right: 6px }
  .wide:first-child .chart { height: 200px }
}
.chart, figcaption { --train: #1f63d1; --validation: #c9480c }
@media (prefers-color-scheme: dark) { .chart, figcaption { --train: #6ba6ff; --validation: #ff9d5c } }
${chartStyle}`

/**
 * Runs in the reader's browser: the pointer marks one step in all charts and shows their values there. A figure's
 * points are JSON in `data-series`, and a drawing's first and last steps are in `data-x`; without a pointer the last
 * values are shown.
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
  x: JSON.parse(svg.dataset.x),
}))
for (const { svg, x } of drawings) {
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect()
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width))
    show(Math.round(x[0] + share * (x[1] - x[0])))
  })
  svg.addEventListener('pointerleave', () => show(null))
}
function show(step) {
  for (const { cursor, x } of drawings) {
    cursor.style.visibility = step === null ? 'hidden' : 'visible'
    const at = (100 * ((step ?? 0) - x[0])) / (x[1] - x[0]) + '%'
    cursor.setAttribute('x1', at)
    cursor.setAttribute('x2', at)
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
