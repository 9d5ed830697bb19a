import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { loadRecipe, resolveRecipe } from '../../lib/train/recipe.js'
import { learningRateAt, type ScheduleOptions, scheduleOf } from '../../lib/train/schedule.js'
import { expectClose } from '../support/closeness.js'

const base: ScheduleOptions = {
  scheduler: 'warmup_decay',
  warmupType: 'log',
  peak: 2e-5,
  minimum: 0,
  warmupSteps: 70,
  totalSteps: 703,
}

interface ReferenceRates {
  by: string
  scheduler: ScheduleOptions['scheduler']
  warmup_type: ScheduleOptions['warmupType']
  minimum: number
  warmup_steps: number
  total_steps: number
  rates: number[]
}
const reference: ReferenceRates[] = JSON.parse(
  readFileSync(join(__dirname, '../fixtures/schedules/rates.json'), 'utf8'),
)

const recipe = (values: Record<string, unknown>) => resolveRecipe([{ values, where: () => 'test' }])

describe('the learning rate', () => {
  test.each(reference)(
    'learning rates match $by: $scheduler, $warmup_type, $warmup_steps of $total_steps',
    (expected) => {
      const schedule: ScheduleOptions = {
        scheduler: expected.scheduler,
        warmupType: expected.warmup_type,
        peak: 2e-5,
        minimum: expected.minimum,
        warmupSteps: expected.warmup_steps,
        totalSteps: expected.total_steps,
      }
      const rates = expected.rates.map((_, step) => learningRateAt(step, schedule))
      expectClose(rates, expected.rates, { relative: 1e-12, ofLargest: 1e-15 })
    },
  )

  test('warms up over a tenth of the steps, rounded down, but at least ten steps or a fifth of a short run', () => {
    const warmup = (values: Record<string, unknown>, total: number) => scheduleOf(recipe(values), total).warmupSteps
    expect(warmup({}, 703)).toBe(70)
    expect([99, 50, 20, 9, 4].map((total) => warmup({}, total))).toEqual([10, 10, 4, 1, 0])
    expect(warmup({ warmup_min: 10 }, 20)).toBe(10)
    expect(warmup({ warmup_min: 0 }, 19)).toBe(1)
    expect(warmup({ warmup_ratio: 0.5 }, 101)).toBe(50)
    expect(warmup({ warmup_steps: 3 }, 703)).toBe(3)
  })

  test.each(['openalpaca-3b', 'openalpaca-7b'])('warms up exactly like OpenAlpaca with the recipe %s', (name) => {
    const exact = (total: number) => Math.max(10, Math.floor(0.1 * total))
    for (const total of [9, 20, 49, 100, 703]) {
      expect(scheduleOf(loadRecipe(name), total).warmupSteps).toBe(exact(total))
    }
  })

  test('stays at the peak with a constant scheduler', () => {
    const schedule: ScheduleOptions = { ...base, scheduler: 'constant' }
    expect(learningRateAt(70, schedule)).toBe(2e-5)
    expect(learningRateAt(702, schedule)).toBe(2e-5)
  })

  test('ends at the minimum, and starts there except for the cosine', () => {
    for (const scheduler of ['warmup_decay', 'cosine'] as const) {
      const schedule: ScheduleOptions = { ...base, scheduler, minimum: 1e-6 }
      expect(learningRateAt(0, schedule)).toBe(scheduler === 'cosine' ? 0 : 1e-6)
      expect(learningRateAt(704, schedule)).toBeCloseTo(1e-6, 18)
      expect(learningRateAt(9999, schedule)).toBeCloseTo(1e-6, 18)
    }
  })

  test('stays between minimum and peak, rises during the warm-up and never after it', () => {
    const schedules = fc.record({
      scheduler: fc.constantFrom('warmup_decay' as const, 'constant' as const, 'cosine' as const),
      warmupType: fc.constantFrom('log' as const, 'linear' as const),
      peak: fc.constantFrom(1, 2e-5),
      minimum: fc.constantFrom(0, 1e-6),
      warmupSteps: fc.nat(12),
      totalSteps: fc.integer({ min: 1, max: 40 }),
    })
    fc.assert(
      fc.property(schedules, (schedule) => {
        const { scheduler, minimum, peak } = schedule
        const rates = Array.from({ length: schedule.totalSteps }, (_, step) => learningRateAt(step, schedule))
        const delay = scheduler === 'warmup_decay' ? 1 : 0
        const top = delay + (schedule.warmupSteps > 0 ? Math.max(1 + delay, schedule.warmupSteps) : 0)
        for (const [step, rate] of rates.entries()) {
          expect(rate).toBeGreaterThanOrEqual(scheduler === 'cosine' ? 0 : minimum)
          expect(rate).toBeLessThanOrEqual(peak * (1 + 1e-12))
          if (step <= delay) continue
          if (step < top) expect(rate).toBeGreaterThan(rates[step - 1])
          else if (step > top) expect(rate).toBeLessThanOrEqual(rates[step - 1])
        }
      }),
      { seed: 3 },
    )
  })
})
