import { writeFileSync } from 'node:fs'
import { DataError } from '../../errors.js'
import { formatCount, formatDuration, formatNumber, formatPercent } from '../../format.js'
import type {
  EndEvent,
  EvaluationEvent,
  SampleEvent,
  StartEvent,
  StepEvent,
  TrainEvent,
  ValidationEvent,
} from '../events.js'
import { readTrainingLog } from '../log.js'
import { type Chart, drawPlot, escapeMarkup, frameOf, type Series, standaloneSvg } from './chart.js'
import { pageScript, pageStyle } from './page.js'
import { type Point, smooth, smoothingRadius, thin } from './series.js'

interface Run {
  start: StartEvent
  steps: StepEvent[]
  validations: ValidationEvent[]
  samples: SampleEvent[]
  evaluation?: EvaluationEvent
  end?: EndEvent
}

/** Writes the report of the run in `logPath` (train.jsonl) as one HTML file that needs nothing else. */
export function writeReport(logPath: string, htmlPath: string): void {
  writeFileSync(htmlPath, renderReport(readRun(readTrainingLog(logPath), logPath)))
}

/** The loss curve of the run in `logPath` as a standalone SVG of the given size in pixels, for a README. */
export function renderCurveSvg(
  logPath: string,
  options: { title?: string; width?: number; height?: number } = {},
): string {
  const run = readRun(readTrainingLog(logPath), logPath)
  const { title = `${run.start.recipe.name}: training loss`, width = 800, height = 360 } = options
  return standaloneSvg({ ...lossChart(run), title, width, height })
}

/** What a run came to, for those who describe it in other words. */
export interface RunSummary {
  start: StartEvent
  /** The last step that was done. */
  last: StepEvent
  samples: SampleEvent[]
  evaluation: EvaluationEvent | undefined
  /** Losses, accuracy, tokens and time, as label and value. */
  figures: [label: string, value: string][]
}

/** Reads the log of the run in `logPath`. @throws DataError when there is none, or it has no step yet */
export function summarizeRun(logPath: string): RunSummary {
  const run = readRun(readTrainingLog(logPath), logPath)
  const { start, steps, samples, evaluation } = run
  return { start, last: steps[steps.length - 1], samples, evaluation, figures: figuresOf(run) }
}

function readRun(events: TrainEvent[], logPath: string): Run {
  const starts = ofType(events, 'start')
  const steps = ofType(events, 'step')
  if (starts.length === 0 || steps.length === 0) throw new DataError(`${logPath} has no training step to report yet`)
  return {
    start: starts[starts.length - 1],
    steps,
    validations: ofType(events, 'validation'),
    samples: ofType(events, 'sample'),
    evaluation: ofType(events, 'evaluation').pop(),
    end: ofType(events, 'end').pop(),
  }
}

function ofType<T extends TrainEvent['type']>(events: TrainEvent[], type: T): Extract<TrainEvent, { type: T }>[] {
  return events.filter((event): event is Extract<TrainEvent, { type: T }> => event.type === type)
}

const small = { width: 480, height: 220 }
const wide = { width: 1000, height: 220 }

const percent = (share: number) => `${Number((100 * share).toFixed(1))} %`

function lossChart(run: Run): Chart {
  return {
    title: 'Loss',
    series: trainAndValidation(run, 'loss'),
    width: 1000,
    height: 380,
    format: formatNumber,
  }
}

function trainAndValidation({ steps, validations }: Run, key: 'loss' | 'token_accuracy'): Series[] {
  return [
    ...withNoise(
      steps.map((step) => [step.step, step[key]]),
      'training',
    ),
    { label: 'validation', tone: 'validation', points: validations.map((event) => [event.step, event[key]]) },
  ]
}

/** The values as they are, faintly, and their smoothed curve over them. */
function withNoise(points: Point[], name = ''): Series[] {
  const radius = smoothingRadius(points.length)
  if (radius === 0) return [{ label: name, tone: 'train', points }]
  const label = [name, `mean of ±${radius} steps`].filter(Boolean).join(', ')
  return [
    { label: 'each step', tone: 'noise', points },
    { label, tone: 'train', points: smooth(points, radius) },
  ]
}

function smallCharts(run: Run): Chart[] {
  const curve = (value: (step: StepEvent) => number): Point[] => run.steps.map((step) => [step.step, value(step)])
  const measured = run.steps.filter((step) => step.utilization !== null)
  const plain = (points: Point[]): Series[] => [{ label: '', tone: 'train', points }]
  const charts: Chart[] = [
    { title: 'Token accuracy', series: trainAndValidation(run, 'token_accuracy'), format: percent, ...small },
    {
      title: 'Learning rate',
      series: plain(curve((step) => step.learning_rate)),
      format: formatNumber,
      ...small,
      fromZero: true,
    },
    {
      title: 'Gradient norm',
      series: withNoise(curve((step) => step.grad_norm)),
      format: formatNumber,
      ...small,
      fromZero: true,
    },
    {
      title: 'Tokens per second',
      series: withNoise(curve((step) => step.tokens_per_second)),
      format: formatCount,
      ...small,
      fromZero: true,
    },
  ]
  if (measured.length > 0) {
    const points = measured.map((step): Point => [step.step, step.utilization!])
    charts.push({
      title: "Share of the machine's peak",
      series: withNoise(points),
      format: percent,
      ...small,
      fromZero: true,
    })
  }
  // They stand in pairs below the loss; one that is left over takes the whole row.
  return charts.length % 2 === 0 ? charts : [...charts.slice(0, -1), { ...charts[charts.length - 1], ...wide }]
}

function renderReport(run: Run): string {
  const { start, end } = run
  const name = escapeMarkup(start.recipe.name)
  const about = [
    `${formatCount(start.model.parameters)} parameters`,
    `${formatCount(start.train_instances)} instances`,
    `${start.device.name} in ${start.device.dtype}`,
    start.time.slice(0, 10),
  ]
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${name}: training report</title>
<style>${pageStyle}</style>
<header>
<h1>${name}</h1>
<p>${escapeMarkup(about.join(' · '))}</p>
</header>
${end && end.reason !== 'completed' ? `<p class="notice">${escapeMarkup(`The run ${end.reason} at step ${end.step}${end.message ? `: ${end.message}` : '.'}`)}</p>` : ''}
<div class="tiles">${tiles(run)}</div>
<div class="charts">
${figure(lossChart(run))}
${smallCharts(run).map(figure).join('\n')}
</div>
${samplesSection(run.samples)}
<h2>Recipe</h2>
<div class="card">${table(Object.entries(start.recipe))}</div>
<h2>Run</h2>
<div class="card">${table([
    ['model', start.model.config],
    ['device', start.device],
    ['versions', start.versions],
    [
      'instances',
      `${start.train_instances} for training, ${start.validation_instances} for validation, ${start.dropped_instances} dropped`,
    ],
  ])}</div>
<script>${pageScript}</script>
</html>
`
}

function tiles(run: Run): string {
  return figuresOf(run)
    .map(([label, value]) => `<div class="tile"><b>${value}</b><span>${label}</span></div>`)
    .join('')
}

function figuresOf(run: Run): [label: string, value: string][] {
  const { steps, validations, evaluation } = run
  const last = steps[steps.length - 1]
  const recent = steps.slice(-Math.max(1, 2 * smoothingRadius(steps.length)))
  const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length
  const seconds = steps.reduce((sum, step) => sum + step.seconds, 0)
  const tokens = steps.reduce((sum, step) => sum + step.tokens, 0)
  return [
    ['training loss', formatNumber(mean(recent.map((step) => step.loss)))],
    ...optional('validation loss', validations.at(-1)?.loss, formatNumber),
    ...optional('right on new instructions', evaluation && evaluation.correct / evaluation.total, formatPercent),
    ['token accuracy', formatPercent(mean(recent.map((step) => step.token_accuracy)))],
    ['steps', `${last.step} / ${last.total_steps}`],
    ['tokens', formatCount(tokens)],
    ['tokens per second', formatCount(tokens / seconds)],
    ['time in steps', formatDuration(seconds)],
  ]
}

function optional(label: string, value: number | undefined, format: (value: number) => string): [string, string][] {
  return value === undefined ? [] : [[label, format(value)]]
}

function figure(chart: Chart): string {
  const shown = chart.series.filter(({ points }) => points.length > 0)
  const readable = shown.filter(({ tone }) => tone !== 'noise' || shown.length === 1)
  const keys = readable.map(({ label, tone, points }) => {
    const value = chart.format(points[points.length - 1][1])
    return `<span class="key" style="--tone: var(--${tone})">${escapeMarkup(label)} <output>${escapeMarkup(value)}</output></span>`
  })
  const series = readable.map(({ points }) => thin(points, 600).map(([x, y]) => [x, chart.format(y)]))
  // A wide drawing shrunk to a telephone has unreadable labels, so that gets a drawing of its own.
  const isWide = chart.width > small.width
  const drawings = isWide ? drawing(chart, 'on-desk') + drawing({ ...chart, ...small }, 'on-phone') : drawing(chart)
  return `<figure${isWide ? ' class="wide"' : ''} data-series="${escapeMarkup(JSON.stringify(series))}">
<figcaption><strong>${escapeMarkup(chart.title)}</strong><span class="at"></span>${keys.join('')}</figcaption>
${drawings}</figure>`
}

function drawing(chart: Chart, className = ''): string {
  const frame = frameOf(chart)
  return `<svg class="chart ${className}" viewBox="0 0 ${chart.width} ${chart.height}" role="img" aria-label="${escapeMarkup(chart.title)}" data-frame="${escapeMarkup(JSON.stringify(frame))}">
${drawPlot(chart, frame)}
<line class="cursor" y1="${frame.top}" y2="${frame.bottom}"/>
</svg>
`
}

function samplesSection(samples: SampleEvent[]): string {
  if (samples.length === 0) return ''
  const byPrompt = new Map<string, SampleEvent[]>()
  for (const sample of samples) {
    const prompt = sample.input ? `${sample.instruction}\n\n${sample.input}` : sample.instruction
    byPrompt.set(prompt, [...(byPrompt.get(prompt) ?? []), sample])
  }
  const cards = [...byPrompt].map(([prompt, answers]) => {
    const [latest, ...earlier] = [...answers].reverse().map((answer) => answerMarkup(answer))
    const history = earlier.length > 0 ? `<details><summary>earlier answers</summary>${earlier.join('')}</details>` : ''
    return `<div class="card"><strong>${escapeMarkup(prompt)}</strong>${latest}${history}</div>`
  })
  return `<h2>Sample answers</h2>\n${cards.join('\n')}`
}

function answerMarkup({ step, output }: SampleEvent): string {
  return `<pre>${escapeMarkup(output) || '<small>(nothing)</small>'}</pre><small>step ${step}</small>`
}

function table(rows: [string, unknown][]): string {
  const cells = rows.map(([key, value]) => {
    const isSmall = typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3
    const text = typeof value === 'string' ? value : isSmall ? value.toExponential() : JSON.stringify(value)
    return `<tr><th>${escapeMarkup(key)}</th><td>${escapeMarkup(text)}</td></tr>`
  })
  return `<table>${cells.join('')}</table>`
}
