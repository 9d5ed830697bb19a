import path from 'node:path'
import type { StartEvent } from '../events.js'
import type { Recipe } from '../recipe-schema.js'

/** A fact as label and value. */
export type Fact = [label: string, value: string]

/** The recipe's keys that had an effect on this run, as text; paths as `shownPath` shows them. */
export function recipeFacts(start: StartEvent): Fact[] {
  const hidden = withoutEffect(start)
  return Object.entries(start.recipe)
    .filter(([key, value]) => value !== undefined && value !== null && key !== 'model' && !hidden.has(key))
    .map(([key, value]) => [key, key.endsWith('_path') ? shownPath(String(value)) : shownValue(value)])
}

/** Keys that apply to runs of another kind: of several ranks, with validation, with checkpoints, and so on. */
function withoutEffect(start: StartEvent): Set<string> {
  const { recipe } = start
  const when = (condition: boolean, ...keys: (keyof Recipe)[]) => (condition ? keys : [])
  return new Set<string>([
    'resume', // how the run was started
    'overwrite',
    ...when(worldSize(start) === 1, 'backend', 'zero_stage', 'prefetch_blocks', 'collective_timeout', 'max_restarts'),
    ...when(worldSize(start) > 1 && recipe.zero_stage < 3, 'prefetch_blocks'),
    ...when(recipe.max_restarts === 0, 'max_restarts'),
    ...when(recipe.offload === 'none', 'offload'),
    ...when(recipe.validation_size === 0, 'validation_every'),
    ...when(recipe.sample_prompts.length === 0 || recipe.sample_every === 0, 'sample_every', 'sample_prompts'),
    ...when(recipe.sample_prompts.length === 0 || recipe.sample_every === 0, 'sample_length'),
    ...when(
      recipe.checkpoint_every === 0,
      'checkpoint_every',
      'checkpoint_in_background',
      'keep_last',
      'keep_checkpoints',
    ),
    ...when(recipe.warmup_steps !== undefined, 'warmup_ratio', 'warmup_min'),
    ...when(recipe.warmup_steps === 0, 'warmup_type'),
  ])
}

function worldSize({ world_size: size, recipe }: StartEvent): number {
  return size ?? Math.max(recipe.gpus ?? 1, recipe.ranks ?? 1) // logs of 0.1.0 lack it
}

/**
 * A path for readers elsewhere, who should not learn how directories are called on this machine: relative to the
 * working directory where it is inside, else its last part. A name on the Hub stays.
 */
export function shownPath(value: string): string {
  const relative = path.relative('', value)
  const isInside = !relative.startsWith('..') && !path.isAbsolute(relative)
  return isInside ? relative || '.' : path.basename(value)
}

/** A message without the directories of absolute paths in it. */
export function withoutDirectories(message: string): string {
  return message.replace(/(?<![\w.:/])(?:\/[^\s/:'"]+)+\/?/g, (found) => shownPath(found))
}

export function shownValue(value: unknown): string {
  const isSmall = typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3
  return typeof value === 'string' ? value : isSmall ? value.toExponential() : JSON.stringify(value)
}
