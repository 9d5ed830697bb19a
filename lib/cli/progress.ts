import { MultiBar, Presets, type SingleBar } from 'cli-progress'
import { formatBytes, formatCount, formatDuration, formatPercent, forTerminal } from '../format.js'
import type { CheckpointEvent, EndEvent, SampleEvent, StartEvent, StepEvent, TrainEvent } from '../train/events.js'
import type { RunDisplay } from './event-lines.js'
import { paint } from './terminal.js'

/** Seconds between plain lines when steps are slow. */
const quietSeconds = 30
const percentWidth = 6
const shortestBar = 4
const longestBar = 32
/** Steps over which the remaining time is estimated. */
const estimateSteps = 50

/**
 * Shows a run's progress: on a terminal a bar that is redrawn in place, with other output printed above it; else plain
 * lines, one every `log_every` steps or half a minute.
 */
export class ProgressDisplay implements RunDisplay {
  private readonly bars: MultiBar | undefined
  private bar: SingleBar | undefined
  private logEvery = 1
  private lineAt = 0
  /** When the last steps ended, oldest first, in milliseconds. */
  private arrivals: number[] = []
  /** The maximum width of each fact on the bar's line so far, which keeps the columns stable. */
  private widths: number[] = []

  constructor(private readonly stream: NodeJS.WriteStream = process.stdout) {
    if (!stream.isTTY) return
    const format = (_options: object, { progress }: { progress: number }, { step }: { step?: StepEvent }) =>
      this.barLine(progress, step)
    // cli-progress itself truncates lines to the terminal's width, so that longer messages may still wrap.
    const options = { format, stream, hideCursor: true, linewrap: true, gracefulExit: false, emptyOnZero: true }
    this.bars = new MultiBar(options, Presets.shades_classic)
    process.once('exit', this.leave)
  }

  handle(event: TrainEvent): void {
    switch (event.type) {
      case 'start':
        this.start(event)
        break
      case 'step':
        this.step(event)
        break
      case 'validation':
        this.note(
          event.step,
          `validation loss ${event.loss.toFixed(4)}, token accuracy ${formatPercent(event.token_accuracy)}`,
        )
        break
      case 'sample':
        this.note(event.step, this.sample(event))
        break
      case 'warning':
        this.note(event.step, `${paint(this.stream, 'red', 'warning:')} ${forTerminal(event.message)}`)
        break
      case 'checkpoint':
        this.note(event.step, `checkpoint ${event.path} (${checkpointFacts(event)})`)
        break
      case 'evaluation':
        this.note(
          event.step,
          `${event.correct} of ${event.total} new instructions right (${formatPercent(event.correct / event.total)})` +
            event.skills.map(({ skill, correct, total }) => `\n  ${skill.padEnd(24)} ${correct} of ${total}`).join(''),
        )
        break
      case 'end':
        this.end(event)
        break
    }
  }

  /** Prints a message, above the bar if there is one. */
  print(text: string): void {
    if (this.bars && this.bar) this.bars.log(`${text}\n`)
    else this.stream.write(`${text}\n`)
  }

  close(): void {
    this.stopBar()
    process.off('exit', this.leave)
  }

  private start(event: StartEvent): void {
    const { recipe, model, device } = event
    const held = event.validation_instances > 0 ? `, ${event.validation_instances} held out for validation` : ''
    this.print(
      `${paint(this.stream, 'bold', recipe.name)}: ${formatCount(model.parameters)} parameters in ${device.dtype} on ${device.name}`,
    )
    this.print(`${event.train_instances} instances${held}, ${event.total_steps} steps of ${recipe.batch_size}`)
    if (event.dropped_instances > 0) {
      this.print(`${event.dropped_instances} instances skipped: their prompts fill max_length ${recipe.max_length}`)
    }
    if (event.truncated_instances) {
      this.print(
        `${event.truncated_instances} of ${event.train_instances + event.validation_instances} answers cut at max_length ${recipe.max_length}: without their end token, the model learns less when to stop`,
      )
    }
    if (event.step > 0) this.print(`resumed after step ${event.step}`)
    this.logEvery = recipe.log_every
    this.arrivals = [performance.now()]
    this.widths = [2 * String(event.total_steps).length + 1]
    this.bar = this.bars?.create(event.total_steps, event.step, {})
  }

  private step(event: StepEvent): void {
    const now = performance.now()
    this.arrivals = [...this.arrivals.slice(-estimateSteps), now]
    if (this.bar) {
      this.bar.update(event.step, { step: event })
      return
    }
    const isDue = event.step % this.logEvery === 0 || now - this.lineAt > 1000 * quietSeconds
    if (!isDue && event.step !== event.total_steps) return
    this.lineAt = now
    this.print(`step ${this.describe(event).join('  ')}`)
  }

  /** The bar and as many facts as fit the terminal. */
  private barLine(progress: number, step: StepEvent | undefined): string {
    const room = (this.stream.columns ?? 80) - percentWidth - shortestBar - 1
    let facts = step ? '' : 'starting'
    for (const [i, fact] of (step ? this.describe(step) : []).entries()) {
      const width = Math.max(this.widths[i] ?? 0, fact.length)
      this.widths[i] = width
      const longer = facts === '' ? fact.padEnd(width) : `${facts} · ${fact.padEnd(width)}`
      if (longer.length <= room) facts = longer
    }
    const width = Math.min(longestBar, shortestBar + Math.max(0, room - facts.length))
    const full = Math.round(progress * width)
    const percent = `${Math.floor(100 * progress)} % `.padStart(percentWidth)
    return `${percent}${'█'.repeat(full)}${'░'.repeat(width - full)} ${facts}`
  }

  /** The facts of a step, the most important first. */
  private describe(event: StepEvent): string[] {
    const left = (event.total_steps - event.step) * this.secondsPerStep()
    return [
      `${event.step}/${event.total_steps}`,
      `loss ${event.loss.toFixed(4)}`,
      `acc ${formatPercent(event.token_accuracy)}`,
      `${formatCount(event.tokens_per_second)} tok/s`,
      ...(this.arrivals.length > 1 ? [timeLeft(left)] : []),
      ...(event.utilization === null ? [] : [`${formatPercent(event.utilization)} of peak`]),
      `epoch ${event.epoch.toFixed(2)}`,
    ]
  }

  private secondsPerStep(): number {
    const steps = this.arrivals.length - 1
    return steps > 0 ? (this.arrivals[steps] - this.arrivals[0]) / 1000 / steps : 0
  }

  private note(step: number, text: string): void {
    this.print(`${paint(this.stream, 'dim', `step ${step}:`)} ${text}`)
  }

  private sample({ instruction, input, output }: SampleEvent): string {
    const prompt = input ? `${instruction} ${input}` : instruction
    const answer = forTerminal(output).replaceAll('\n', '\n  ')
    return `${paint(this.stream, 'italic', forTerminal(prompt))}\n  ${answer}`
  }

  private end({ reason, step, seconds, message }: EndEvent): void {
    this.stopBar()
    const how = { completed: 'done', stopped: 'stopped; continue with --resume', failed: `failed: ${message}` }[reason]
    this.print(`${how} (step ${step}, ${formatDuration(seconds)})`)
  }

  private stopBar(): void {
    if (!this.bars || !this.bar) return
    this.bars.update() // prints pending output
    this.bars.stop()
    this.bar = undefined
  }

  /** Called when the process exits during the run. */
  private readonly leave = (): void => {
    this.stopBar()
    this.stream.write('\x1b[?25h')
  }
}

/** In integer units: an estimate needs no tenths of a second. */
function timeLeft(seconds: number): string {
  if (seconds < 0.5) return 'about to end'
  return `${seconds < 9.5 ? `${Math.round(seconds)} s` : formatDuration(seconds).replace(/ \d\d s$/, '')} left`
}

function checkpointFacts({ bytes, seconds }: CheckpointEvent): string {
  return `${bytes === undefined ? '' : `${formatBytes(bytes)}, `}${formatDuration(seconds)}`
}
