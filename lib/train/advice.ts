/** Warnings before a run starts, for settings that would train little. */
import { formatCount, formatNumber } from '../format.js'
import type { Recipe } from './recipe-schema.js'
import type { ScheduleOptions } from './schedule.js'

/** Fewer steps than this hardly train a model. */
const fewSteps = 50
/** The number of steps that the suggested settings aim for. */
const wantedSteps = 100
/** More epochs on little data mostly memorize it. */
const mostEpochs = 10
const smallestBatch = 4

/** The settings of a run that determine its length and pace. */
export interface PlannedRun {
  recipe: Pick<Recipe, 'batch_size' | 'epochs' | 'max_steps' | 'learning_rate'>
  schedule: ScheduleOptions
  /** Training instances. */
  instances: number
  /** Parameters of the model. */
  parameters: number
}

/** Warnings about a run that is mostly warm-up or too short to learn from its data; each names the flags that help. */
export function shortRunWarnings(run: PlannedRun): string[] {
  const { warmupSteps, totalSteps } = run.schedule
  const warnings: string[] = []
  if (warmupSteps > 0 && 2 * warmupSteps >= totalSteps) {
    const share = warmupSteps >= totalSteps ? 'all' : `${warmupSteps}`
    warnings.push(
      `the warm-up takes ${share} of the ${steps(totalSteps)}, so the learning rate ` +
        `${warmupSteps >= totalSteps ? 'never reaches' : 'hardly stays near'} ${formatNumber(run.schedule.peak)}: ` +
        `lower it with --warmup_steps ${Math.floor(totalSteps / 10)}, or train longer`,
    )
  }
  if (totalSteps < fewSteps) {
    const flags = [...lengtheningFlags(run), ...rateFlag(run)]
    warnings.push(`${steps(totalSteps)} ${totalSteps === 1 ? 'trains' : 'train'} little: try ${flags.join(' ')}`)
  }
  return warnings
}

const steps = (count: number) => `${count} ${count === 1 ? 'step' : 'steps'}`

/** The largest possible batch size and the number of epochs that give about a hundred steps. */
function lengtheningFlags({ recipe, instances, schedule }: PlannedRun): string[] {
  const { batch_size, epochs, max_steps } = recipe
  const byData = Math.floor((epochs * instances) / batch_size)
  if (max_steps !== undefined && schedule.totalSteps < byData) {
    return [`--max_steps ${byData < wantedSteps ? 'null' : wantedSteps}`]
  }
  const epochsWith = (batch: number) => Math.max(epochs, Math.ceil((wantedSteps * batch) / instances))
  let batch = batch_size
  while (batch > smallestBatch && epochsWith(batch) > Math.max(epochs, mostEpochs)) {
    batch = Math.max(smallestBatch, 2 ** Math.ceil(Math.log2(batch) - 1))
  }
  return [
    ...(batch < batch_size ? [`--batch_size ${batch}`] : []),
    ...(epochsWith(batch) > epochs ? [`--epochs ${epochsWith(batch)}`] : []),
  ]
}

/** Small models take higher rates than models of billions of parameters, which the default is for. */
function rateFlag({ recipe, parameters }: PlannedRun): string[] {
  const usual = parameters < 1e8 ? 1e-3 : parameters < 1e9 ? 1e-4 : 2e-5
  if (recipe.learning_rate >= usual / 4) return []
  return [`--learning_rate ${usual.toExponential()} (for a model of ${formatCount(parameters)} parameters)`]
}
