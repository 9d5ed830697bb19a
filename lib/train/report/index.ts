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
import { axesOf, type Chart, drawPlot, escapeMarkup, type Series, standaloneSvg } from './chart.js'
import { type Fact, recipeFacts, shownValue, withoutDirectories } from './facts.js'
import { pageScript, pageStyle } from './page.js'
import { type Point, smooth, smoothingRadius, thin } from './series.js'
import { verdictOf } from './verdict.js'

interface Run {
  start: StartEvent
  steps: StepEvent[]
  validations: ValidationEvent[]
  samples: SampleEvent[]
  evaluation?: EvaluationEvent
  end?: EndEvent
}

/**
 * Writes the report of the run in `logPath` (train.jsonl) as a single self-contained HTML file.
 * @returns the verdict on a run that is less successful than it looks
 */
export function writeReport(logPath: string, htmlPath: string): string | undefined {
  const run = readRun(readTrainingLog(logPath), logPath)
  writeFileSync(htmlPath, renderReport(run))
  return verdictOf(run)
}

/** The loss curve of the run in `logPath` as a standalone SVG of the given size in pixels, for a README. */
export function renderCurveSvg(
  logPath: string,
  options: { title?: string; width?: number; height?: number } = {},
): string {
  const run = readRun(readTrainingLog(logPath), logPath)
  const { title = `${run.start.recipe.name}: training loss`, width = 800, height = 360 } = options
  return standaloneSvg({ ...lossChart(run), title }, width, height)
}

/** The outcome of a run, for the model card. */
export interface RunSummary {
  start: StartEvent
  /** The last step that was done. */
  last: StepEvent
  samples: SampleEvent[]
  evaluation: EvaluationEvent | undefined
  /** Losses, accuracy, tokens and time, as label and value. */
  figures: Fact[]
}

/**
 * Reads the log of the run in `logPath`.
 * @throws {DataError} for a missing log, or one without a step
 */
export function summarizeRun(logPath: string): RunSummary {
  const run = readRun(readTrainingLog(logPath), logPath)
  const { start, steps, samples, evaluation } = run
  return { start, last: steps[steps.length - 1], samples, evaluation, figures: [...resultsOf(run), ...effortOf(run)] }
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

const percent = (share: number) => `${Number((100 * share).toFixed(1))} %`
/** A loss or a norm with four decimals, so that compared values have the same digits. */
const measured = (value: number) =>
  Math.abs(value) >= 1e-3 && Math.abs(value) < 1000 ? value.toFixed(4) : formatNumber(value)

function lossChart(run: Run): Chart {
  return {
    title: 'Loss',
    series: trainAndValidation(run, 'loss'),
    format: measured,
    formatTick: formatNumber,
    logarithmic: true,
  }
}

function trainAndValidation({ steps, validations }: Run, key: 'loss' | 'token_accuracy'): Series[] {
  return [
    ...withNoise(
      steps.map((step) => [step.step, step[key]]),
      { name: 'training' },
    ),
    { label: 'validation', tone: 'validation', points: validations.map((event) => [event.step, event[key]]) },
  ]
}

/** The measured values, drawn faintly, with their smoothed curve on top. */
function withNoise(points: Point[], { name = '', steady = false } = {}): Series[] {
  const radius = smoothingRadius(points.length)
  if (radius === 0) return [{ label: name, tone: 'train', points }]
  return [
    { label: 'each step', tone: 'noise', points },
    { label: [name, 'smoothed'].filter(Boolean).join(', '), tone: 'train', points: smooth(points, radius, steady) },
  ]
}

function smallCharts(run: Run): Chart[] {
  const curve = (value: (step: StepEvent) => number): Point[] => run.steps.map((step) => [step.step, value(step)])
  const utilization = run.steps.flatMap((step): Point[] =>
    step.utilization === null ? [] : [[step.step, step.utilization]],
  )
  const charts: Chart[] = [
    {
      title: 'Token accuracy',
      series: trainAndValidation(run, 'token_accuracy'),
      format: formatPercent,
      formatTick: percent,
    },
    {
      title: 'Learning rate',
      series: [{ label: '', tone: 'train', points: curve((step) => step.learning_rate) }],
      format: (value) => (value === 0 ? '0' : value.toExponential(2)),
      formatTick: formatNumber,
      fromZero: true,
    },
    {
      title: 'Gradient norm',
      series: withNoise(curve((step) => step.grad_norm)),
      format: measured,
      formatTick: formatNumber,
      fromZero: true,
    },
    {
      title: 'Tokens per second',
      series: withNoise(
        curve((step) => step.tokens_per_second),
        { steady: true },
      ),
      format: formatCount,
      formatTick: formatCount,
      fromZero: true,
    },
  ]
  if (utilization.length > 0) {
    charts.push({
      title: "Share of the machine's peak",
      series: withNoise(utilization, { steady: true }),
      format: formatPercent,
      formatTick: percent,
      fromZero: true,
    })
  }
  return charts
}

function renderReport(run: Run): string {
  const { start, end } = run
  const verdict = verdictOf(run)
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
${end && end.reason !== 'completed' ? `<p class="notice">${escapeMarkup(`The run ${end.reason} at step ${end.step}${end.message ? `: ${withoutDirectories(end.message)}` : '.'}`)}</p>` : ''}
${verdict === undefined ? '' : `<p class="notice">${escapeMarkup(verdict)}</p>`}
${tiles(resultsOf(run))}
${tiles(effortOf(run))}
<div class="charts">
${charts(run)}
</div>
${samplesSection(run.samples)}
<h2>Recipe</h2>
${facts(recipeFacts(start))}
<h2>Model</h2>
${facts(Object.entries(start.model.config).map(([key, value]) => [key, shownValue(value)]))}
<h2>Run</h2>
${facts(runFacts(start))}
<script>${pageScript}</script>
</html>
`
}

function tiles(figures: Fact[]): string {
  const each = figures.map(([label, value]) => `<div class="tile"><b>${value}</b><span>${label}</span></div>`)
  return `<div class="tiles">${each.join('')}</div>`
}

/**
 * Losses and accuracies. Training values are measured on batches before each update, and do not reflect performance on
 * new data.
 */
function resultsOf(run: Run): Fact[] {
  const { steps, validations, evaluation } = run
  const count = smoothingRadius(steps.length) + 1 // the window at the end of the smoothed curve
  const recent = steps.slice(-count)
  const over = count > 1 ? `last ${count} steps` : 'last step'
  const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length
  return [
    [`training loss, ${over}`, measured(mean(recent.map((step) => step.loss)))],
    ...optional('validation loss', validations.at(-1)?.loss, measured),
    [`training token accuracy, ${over}`, formatPercent(mean(recent.map((step) => step.token_accuracy)))],
    ...optional('validation token accuracy', validations.at(-1)?.token_accuracy, formatPercent),
    ...optional('right on new instructions', evaluation && evaluation.correct / evaluation.total, formatPercent),
  ]
}

/** Steps, tokens, and time. */
function effortOf({ steps }: Run): Fact[] {
  const last = steps[steps.length - 1]
  const seconds = steps.reduce((sum, step) => sum + step.seconds, 0)
  const tokens = steps.reduce((sum, step) => sum + step.tokens, 0)
  return [
    ['steps', last.step === last.total_steps ? String(last.step) : `${last.step} / ${last.total_steps}`],
    ['tokens', formatCount(tokens)],
    ['tokens per second', formatCount(tokens / seconds)],
    ['time in steps', formatDuration(seconds)],
  ]
}

function optional(label: string, value: number | undefined, format: (value: number) => string): Fact[] {
  return value === undefined ? [] : [[label, format(value)]]
}

/** The loss at full width, and the others in pairs below it; an unpaired one takes the full row. */
function charts(run: Run): string {
  const others = smallCharts(run)
  return [
    figure(lossChart(run), true),
    ...others.map((chart, i) => figure(chart, i === others.length - 1 && i % 2 === 0)),
  ].join('\n')
}

function figure(chart: Chart, isWide: boolean): string {
  const shown = chart.series.filter(({ points }) => points.length > 0)
  const readable = shown.filter(({ tone }) => tone !== 'noise' || shown.length === 1)
  const keys = readable.map(({ label, tone, points }) => {
    const value = chart.format(points[points.length - 1][1])
    return `<span${label ? ' class="key"' : ''} style="--tone: var(--${tone})">${escapeMarkup(label)} <output>${escapeMarkup(value)}</output></span>`
  })
  const series = readable.map(({ points }) => thin(points, 600).map(([x, y]) => [x, chart.format(y)]))
  const axes = axesOf(chart)
  const title = axes.isLog ? `${chart.title} (logarithmic)` : chart.title
  return `<figure${isWide ? ' class="wide"' : ''} data-series="${escapeMarkup(JSON.stringify(series))}">
<figcaption><strong>${escapeMarkup(title)}</strong><span class="at"></span>${keys.join('')}</figcaption>
<svg class="chart" role="img" aria-label="${escapeMarkup(title)}" data-x="${JSON.stringify(axes.x)}">
${drawPlot(chart, axes, 1000, 300)}
<line class="cursor" y1="0" y2="100%"/>
</svg>
</figure>`
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

function runFacts(start: StartEvent): Fact[] {
  const { device, versions, world_size: ranks } = start
  return [
    ['device', `${device.name} (${device.type})`],
    ...(ranks !== undefined && ranks > 1 ? [['ranks', String(ranks)] satisfies Fact] : []),
    ['number format', device.dtype],
    ...optional('measured peak', device.peak_flops ?? undefined, (value) => `${formatNumber(value / 1e9)} GFLOP/s`),
    ['training instances', String(start.train_instances)],
    ['validation instances', String(start.validation_instances)],
    ['dropped instances', String(start.dropped_instances)],
    ...optional('answers cut at max_length', start.truncated_instances || undefined, String),
    ...Object.entries(versions),
  ]
}

function facts(rows: Fact[]): string {
  const items = rows.map(
    ([label, value]) => `<div><dt>${escapeMarkup(label)}</dt><dd>${escapeMarkup(value)}</dd></div>`,
  )
  return `<dl class="card facts">${items.join('')}</dl>`
}
