import type { StartEvent, StepEvent, TrainEvent } from '../../lib/train/events.js'
import { resolveRecipe } from '../../lib/train/recipe.js'

/** A start event of a small run; `step` is the step of the checkpoint that it resumes. */
export function startEvent(step = 0, recipe: Record<string, unknown> = { name: 'tiny' }): StartEvent {
  return {
    type: 'start',
    step,
    time: '2026-01-02T03:04:05.000Z',
    recipe: resolveRecipe([{ values: recipe, where: () => 'test' }]),
    model: { parameters: 4_200_000, config: { hidden_size: 64 } },
    device: { type: 'cpu', name: 'a <small> CPU', dtype: 'float32', peak_flops: null },
    versions: { 'openalpaca-native': '0.0.0' },
    total_steps: 100,
    train_instances: 400,
    validation_instances: 20,
    dropped_instances: 3,
    unused_fields: {},
    empty_answers: 0,
  }
}

/** A step event whose values are computed from its number. */
export function stepEvent(step: number): StepEvent {
  return {
    type: 'step',
    step,
    total_steps: 100,
    epoch: step / 25,
    loss: 4 - step / 50,
    token_accuracy: step / 200,
    grad_norm: 1 + (step % 3),
    learning_rate: 1e-4,
    tokens: 1000,
    label_tokens: 400,
    seconds: 0.5,
    tokens_per_second: 2000,
    utilization: step % 2 ? null : 0.4,
  }
}

/** Steps first to last, with a validation after every tenth. */
export function stretch(first: number, last: number): TrainEvent[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i).flatMap((step): TrainEvent[] => [
    stepEvent(step),
    ...(step % 10 === 0
      ? [{ type: 'validation' as const, step, loss: 4.5 - step / 50, token_accuracy: step / 250 }]
      : []),
  ])
}
