import path from 'node:path'
import type { StartEvent } from '../events.js'
import type { Recipe } from '../recipe-schema.js'

/** A fact, as label and value. */
export type Fact = [label: string, value: string]

/** The recipe's keys that affected this run, as text; paths in the form of `shownPath`. */
export function recipeFacts(start: StartEvent): Fact[] {
  const hidden = withoutEffect(start)
  return Object.entries(start.recipe)
    .filter(([key, value]) => value !== undefined && value !== null && key !== 'model' && !hidden.has(key))
    .map(([key, value]) => [key, key.endsWith('_path') ? shownPath(String(value)) : shownValue(value)])
}

/** Keys that apply only to other kinds of run: with several ranks, with validation, with checkpoints, and so on. */
function withoutEffect(start: StartEvent): Set<string> {
  const { recipe } = start
  const when = (condition: boolean, ...keys: (keyof Recipe)[]) => (condition ? keys : [])
  return new Set<string>([
    'resume', // only affects how the run starts
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
  return size ?? Math.max(recipe.gpus ?? 1, recipe.ranks ?? 1) // absent from logs of 0.1.0
}

/**
 * A path without this machine's directory names, for readers elsewhere: relative to the working directory if inside it,
 * else its last part. A Hub name is unchanged.
 */
export function shownPath(value: string): string {
  const relative = path.relative('', value)
  const isInside = !relative.startsWith('..') && !path.isAbsolute(relative)
  return isInside ? relative || '.' : path.basename(value)
}

/** A message with the directories of absolute paths removed. */
export function withoutDirectories(message: string): string {
  return message.replace(/(?<![\w.:/])(?:\/[^\s/:'"]+)+\/?/g, (found) => shownPath(found))
}

export function shownValue(value: unknown): string {
  const isSmall = typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3
  return typeof value === 'string' ? value : isSmall ? value.toExponential() : JSON.stringify(value)
}
