/** A sentence about a run that did not achieve what its figures may suggest. */
import { formatNumber, formatPercent } from '../../format.js'
import type { EndEvent, StartEvent, StepEvent, ValidationEvent } from '../events.js'
import { scheduleOf } from '../schedule.js'

/** The events that a verdict is based on. */
export interface JudgedRun {
  start: StartEvent
  steps: readonly StepEvent[]
  validations: readonly ValidationEvent[]
  end?: EndEvent
}

/** The number of steps that a loss is averaged over: a tenth of the run. */
const windowOf = (count: number) => Math.max(1, Math.min(50, Math.floor(count / 10)))

/** Why a run is less successful than it looks: all warm-up, diverged, memorized, or hardly trained; else undefined. */
export function verdictOf(run: JudgedRun): string | undefined {
  return allWarmup(run) ?? diverged(run) ?? memorized(run) ?? hardlyTrained(run)
}

function allWarmup({ start, steps }: JudgedRun): string | undefined {
  const { warmupSteps, peak, totalSteps } = scheduleOf(start.recipe, start.total_steps)
  if (warmupSteps < totalSteps) return undefined
  const highest = steps.reduce((most, { learning_rate }) => Math.max(most, learning_rate), 0)
  return (
    `All warm-up: the warm-up of ${warmupSteps} steps is as long as the run of ${totalSteps}, ` +
    `and the learning rate rose to ${formatNumber(highest)} of ${formatNumber(peak)} at most.`
  )
}

function diverged({ steps, end }: JudgedRun): string | undefined {
  if (end?.reason === 'failed' && /not finite/.test(end.message ?? '')) {
    return 'Diverged: a loss or gradient was not finite. Lower the learning rate, or look at the rows that are named.'
  }
  if (steps.length < 10) return undefined
  const { first, lowest, last } = lossesOf(steps)
  if (last <= 1.2 * first && (last <= 2 * lowest || last <= first / 2)) return undefined
  return `Diverged: the loss ended at ${formatNumber(last)}, after ${formatNumber(first)} at the start and ${formatNumber(lowest)} at best. Lower the learning rate.`
}

function memorized({ steps, validations }: JudgedRun): string | undefined {
  const { last } = lossesOf(steps)
  const { epoch } = steps[steps.length - 1]
  if (epoch < 1.5) return undefined // hardly a row was repeated
  const held = validations.map(({ loss }) => loss)
  if (held.length > 0) {
    const [best, final] = [Math.min(...held), held[held.length - 1]]
    const isApart = final > 1.1 * best && last < final / 2
    if (!isApart) return undefined
    return `Memorized: the validation loss rose from ${formatNumber(best)} to ${formatNumber(final)} while the training loss fell to ${formatNumber(last)}. Train fewer epochs.`
  }
  const accuracy = average(steps.slice(-windowOf(steps.length)).map(({ token_accuracy }) => token_accuracy))
  if (last >= 0.05 || accuracy < 0.99) return undefined
  return (
    `Memorized: after ${formatNumber(epoch)} epochs the training loss is ${formatNumber(last)} at ${formatPercent(accuracy)} token accuracy, ` +
    'and no instance was held out to show what that is worth on new ones (--validation_size 0.1).'
  )
}

function hardlyTrained({ steps, end }: JudgedRun): string | undefined {
  const { first, last } = lossesOf(steps)
  if (end?.reason !== 'completed' || steps.length < 2 || last <= 0.95 * first) return undefined
  return `Hardly trained: the loss went from ${formatNumber(first)} to ${formatNumber(last)}. Raise the learning rate, or train longer.`
}

/** Mean losses at the start, at the minimum, and at the end. */
function lossesOf(steps: readonly StepEvent[]): { first: number; lowest: number; last: number } {
  const size = windowOf(steps.length)
  const losses = steps.map(({ loss }) => loss)
  const means = Array.from({ length: Math.floor(losses.length / size) }, (_, i) =>
    average(losses.slice(i * size, (i + 1) * size)),
  )
  return { first: means[0], lowest: Math.min(...means), last: average(losses.slice(-size)) }
}

const average = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
