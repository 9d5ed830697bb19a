import type { Recipe } from './recipe-schema.js'

export interface ScheduleOptions {
  scheduler: 'warmup_decay' | 'constant' | 'cosine'
  /** Shape of the warm-up: `log` rises fast and then slowly, as DeepSpeed's default does. */
  warmupType: 'log' | 'linear'
  /** Peak learning rate, reached at the end of the warm-up. */
  peak: number
  /** Learning rate at the first step of the warm-up and at the end of the decay. */
  minimum: number
  warmupSteps: number
  totalSteps: number
}

/**
 * The schedule of a recipe over a run of `totalSteps` optimizer steps. The warm-up takes `warmup_steps`, or else
 * max(warmup_min, ⌊warmup_ratio · totalSteps⌋) steps.
 */
export function scheduleOf(recipe: Recipe, totalSteps: number): ScheduleOptions {
  return {
    scheduler: recipe.lr_scheduler,
    warmupType: recipe.warmup_type,
    peak: recipe.learning_rate,
    minimum: recipe.min_learning_rate,
    warmupSteps: recipe.warmup_steps ?? Math.max(recipe.warmup_min, Math.floor(recipe.warmup_ratio * totalSteps)),
    totalSteps,
  }
}

/**
 * The learning rate of optimizer step i = 0, 1, …: minimum + (peak − minimum) · γ(i), with w warm-up steps of n in all.
 *
 * While i < w, γ = ln(i + 1) / ln(w) (`log`) or i / w (`linear`); then
 *
 * - `warmup_decay`: γ = max(0, n − i) / max(1, n − w)
 * - `cosine`: γ = ½ (1 + cos(π · (i − w) / max(1, n − w)))
 * - `constant`: γ = 1
 *
 * The first is DeepSpeed's WarmupDecayLR (deepspeed/runtime/lr_schedules.py), with its logarithmic default.
 */
export function learningRateAt(step: number, options: ScheduleOptions): number {
  const gamma = step < options.warmupSteps ? warmup(step, options) : decay(step, options)
  return options.minimum + (options.peak - options.minimum) * gamma
}

function warmup(step: number, { warmupType, warmupSteps }: ScheduleOptions): number {
  if (step === 0) return 0 // also where one step of warm-up would give ln 1 / ln 1
  return warmupType === 'log' ? Math.log(step + 1) / Math.log(warmupSteps) : step / warmupSteps
}

function decay(step: number, { scheduler, warmupSteps, totalSteps }: ScheduleOptions): number {
  const remaining = Math.max(0, totalSteps - step) / Math.max(1, totalSteps - warmupSteps)
  if (scheduler === 'warmup_decay') return remaining
  if (scheduler === 'cosine') return (1 - Math.cos(Math.PI * remaining)) / 2
  return 1
}
