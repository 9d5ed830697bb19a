import { describe, expect, test } from 'vitest'
import { shortRunWarnings } from '../../lib/train/advice.js'
import { changedSettings } from '../../lib/train/checkpoint.js'
import { resolveRecipe, withMaxLength } from '../../lib/train/recipe.js'
import { scheduleOf } from '../../lib/train/schedule.js'

const recipe = (values: Record<string, unknown> = {}) => resolveRecipe([{ values, where: () => 'test' }])

/** The warnings for a run on some instances. */
function warnings(instances: number, values: Record<string, unknown> = {}, parameters = 3e9): string {
  const settings = recipe(values)
  const { batch_size, epochs, max_steps = Number.POSITIVE_INFINITY } = settings
  const totalSteps = Math.min(Math.floor((epochs * instances) / batch_size), max_steps)
  const schedule = scheduleOf(settings, totalSteps)
  return shortRunWarnings({ recipe: settings, schedule, instances, parameters }).join('\n')
}

describe('the warnings before a run', () => {
  test('gives no warnings for OpenAlpaca, or for any run of 50 steps', () => {
    expect(warnings(15_001)).toBe('')
    expect(warnings(50 * 64, { epochs: 1 })).toBe('')
  })

  test('suggests a batch size and epochs that give a hundred steps', () => {
    expect(warnings(200)).toBe('9 steps train little: try --batch_size 16 --epochs 8')
    expect(warnings(1000)).toBe('46 steps train little: try --epochs 7')
    expect(warnings(20, { batch_size: 20 })).toBe('3 steps train little: try --batch_size 4 --epochs 20')
    expect(warnings(40, { batch_size: 4, epochs: 0.1 })).toBe('1 step trains little: try --epochs 10')
  })

  test('suggests a higher learning rate for a small model, unless it has one', () => {
    expect(warnings(200, {}, 2e6)).toMatch(/ --learning_rate 1e-3 \(for a model of 2M parameters\)$/)
    expect(warnings(200, {}, 2e8)).toMatch(/ --learning_rate 1e-4 /)
    expect(warnings(200, { learning_rate: 5e-4 }, 2e6)).not.toMatch(/learning_rate/)
  })

  test('names max_steps if that limits the run', () => {
    expect(warnings(15_001, { max_steps: 5 })).toBe('5 steps train little: try --max_steps 100')
    expect(warnings(1500, { max_steps: 5 })).toBe('5 steps train little: try --max_steps null')
  })

  test('warns when a manually set warm-up takes half of the steps, or all of them', () => {
    expect(warnings(15_001, { warmup_steps: 352 })).toMatch(/takes 352 of the 703 steps, .*--warmup_steps 70/)
    expect(warnings(15_001, { warmup_steps: 351 })).toBe('')
    expect(warnings(200, { warmup_min: 10 })).toMatch(
      /^the warm-up takes all of the 9 steps, so the learning rate never reaches 2e-5: lower it with --warmup_steps 0/,
    )
    expect(warnings(15_001, { warmup_ratio: 0.5 })).toBe('')
    expect(warnings(15_001, { warmup_ratio: 0.51 })).toMatch(/takes 358 of the 703 steps/)
  })
})

test('names settings of a resumed run that differ from its checkpoint', () => {
  const before = { ...recipe({ learning_rate: 1e-4 }), name: 'other', keep_last: 1 }
  expect(changedSettings(before, recipe({ learning_rate: 1e-4 }))).toEqual([])
  expect(changedSettings(before, recipe({ epochs: 5, max_steps: 4 }))).toEqual([
    'resumed with other settings: epochs was 3 and is now 5; max_steps was not set and is now 4; learning_rate was 0.0001 and is now 0.00002',
  ])
})

describe('max_length', () => {
  test('max_length defaults to 1536 or the context', () => {
    expect(withMaxLength(recipe(), 2048).max_length).toBe(1536)
    expect(withMaxLength(recipe(), 128).max_length).toBe(128)
    expect(withMaxLength(recipe({ max_length: 64 }), 128).max_length).toBe(64)
  })

  test('max_length beyond the context is rejected', () => {
    expect(() => withMaxLength(recipe({ max_length: 129 }), 128)).toThrow(
      "max_length 129 is longer than the model's context of 128: lower it, or leave it out",
    )
  })
})
