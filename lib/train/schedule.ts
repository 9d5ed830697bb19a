import type { Recipe } from './recipe-schema.js'

export interface ScheduleOptions {
  scheduler: 'warmup_decay' | 'constant' | 'cosine'
  /** Shape of the warm-up: `log` rises fast and then slowly, as DeepSpeed's default does. */
  warmupType: 'log' | 'linear'
  /** Peak learning rate, reached at the end of the warm-up. */
  peak: number
  /** Learning rate at the end of the decay and, except for `cosine`, at the start of the warm-up. */
  minimum: number
  warmupSteps: number
  totalSteps: number
}

/** The default of `warmup_min`, from OpenAlpaca; shorter in a short run. */
const usualWarmupMin = 10
const shortRunShare = 0.2

/**
 * The schedule of a recipe over a run of `totalSteps` optimizer steps. The warm-up takes `warmup_steps`, or else
 * max(warmup_min, ⌊warmup_ratio · totalSteps⌋) steps, where `warmup_min` is 10 or a fifth of a shorter run.
 */
export function scheduleOf(recipe: Recipe, totalSteps: number): ScheduleOptions {
  const fewest = recipe.warmup_min ?? Math.min(usualWarmupMin, Math.floor(shortRunShare * totalSteps))
  return {
    scheduler: recipe.lr_scheduler,
    warmupType: recipe.warmup_type,
    peak: recipe.learning_rate,
    minimum: recipe.min_learning_rate,
    warmupSteps: recipe.warmup_steps ?? Math.max(fewest, Math.floor(recipe.warmup_ratio * totalSteps)),
    totalSteps,
  }
}

/**
 * The learning rate of optimizer step i = 0, 1, …: minimum + (peak − minimum) · γ(j), with w warm-up steps and n in
 * all.
 *
 * - `warmup_decay` is DeepSpeed's WarmupDecayLR as its engine applies it: the engine sets the rate after an update, so
 * j = max(0, i − 1), and a warm-up has at least two steps. γ = ln(j + 1) / ln(w) (`log`) or j / w (`linear`) while j <
 * w; then max(0, n − j) / max(1, n − w).
 * - `cosine` and `constant` are Transformers' `cosine` (`cosine_with_min_lr` with a minimum) and
 * `constant_with_warmup`: j = i; γ = j / w (`linear`, their only warm-up) or ln(j + 1) / ln(w) (`log`); then ½ (1 +
 * cos(π · (j − w) / max(1, n − w))), or 1. The cosine's warm-up starts at 0, not at the minimum.
 */
export function learningRateAt(step: number, options: ScheduleOptions): number {
  const { scheduler, peak, minimum, warmupSteps } = options
  const isDeepSpeeds = scheduler === 'warmup_decay'
  const j = isDeepSpeeds ? Math.max(0, step - 1) : step
  const warmup = isDeepSpeeds && warmupSteps > 0 ? Math.max(2, warmupSteps) : warmupSteps
  if (j < warmup) {
    const start = scheduler === 'cosine' ? 0 : minimum
    return start + (peak - start) * warmupShare(j, warmup, options.warmupType)
  }
  return minimum + (peak - minimum) * decayShare(j, warmup, options)
}

function warmupShare(j: number, warmup: number, type: ScheduleOptions['warmupType']): number {
  if (j === 0) return 0 // also avoids ln 1 / ln 1 for one step of warm-up
  return type === 'log' ? Math.log(j + 1) / Math.log(warmup) : j / warmup
}

function decayShare(j: number, warmup: number, { scheduler, totalSteps }: ScheduleOptions): number {
  const remaining = Math.max(0, totalSteps - j) / Math.max(1, totalSteps - warmup)
  if (scheduler === 'warmup_decay') return remaining
  if (scheduler === 'cosine') return (1 - Math.cos(Math.PI * remaining)) / 2
  return 1
}
