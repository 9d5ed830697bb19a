import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { resolveRecipe } from '../../lib/train/recipe.js'
import { learningRateAt, type ScheduleOptions, scheduleOf } from '../../lib/train/schedule.js'

const base: ScheduleOptions = {
  scheduler: 'warmup_decay',
  warmupType: 'log',
  peak: 2e-5,
  minimum: 0,
  warmupSteps: 70,
  totalSteps: 703,
}
const recipe = (values: Record<string, unknown>) => resolveRecipe([{ values, where: () => 'test' }])

describe('the learning rate', () => {
  test('is that of the PyTorch trajectory', () => {
    const golden = JSON.parse(readFileSync(join(__dirname, '../fixtures/trajectory.json'), 'utf8'))
    const schedule = scheduleOf(recipe({ learning_rate: golden.peak_lr }), golden.total_steps)
    expect(schedule.warmupSteps).toBe(golden.warmup_steps)
    for (const { step, lr } of golden.steps) expect(learningRateAt(step, schedule)).toBeCloseTo(lr, 15)
  })

  test('warms up over a tenth of the steps, rounded down, but over no fewer than ten', () => {
    const warmup = (values: Record<string, unknown>, total: number) => scheduleOf(recipe(values), total).warmupSteps
    expect(warmup({}, 703)).toBe(70)
    expect(warmup({}, 20)).toBe(10)
    expect(warmup({ warmup_min: 0 }, 19)).toBe(1)
    expect(warmup({ warmup_ratio: 0.5 }, 101)).toBe(50)
    expect(warmup({ warmup_steps: 3 }, 703)).toBe(3)
  })

  test('rises in a straight line where the warm-up is linear', () => {
    const schedule: ScheduleOptions = { ...base, warmupType: 'linear', warmupSteps: 4, peak: 1 }
    expect([0, 1, 2, 3, 4].map((step) => learningRateAt(step, schedule))).toEqual([0, 0.25, 0.5, 0.75, 1])
  })

  test('stays at the peak where it is constant', () => {
    const schedule: ScheduleOptions = { ...base, scheduler: 'constant' }
    expect(learningRateAt(70, schedule)).toBe(2e-5)
    expect(learningRateAt(702, schedule)).toBe(2e-5)
  })

  test('follows half a cosine to the minimum', () => {
    const schedule: ScheduleOptions = {
      ...base,
      scheduler: 'cosine',
      peak: 1,
      minimum: 0.1,
      warmupSteps: 0,
      totalSteps: 8,
    }
    const expected = [0, 2, 4, 6, 8].map((step) => 0.1 + 0.9 * 0.5 * (1 + Math.cos((Math.PI * step) / 8)))
    for (const [i, step] of [0, 2, 4, 6, 8].entries())
      expect(learningRateAt(step, schedule)).toBeCloseTo(expected[i], 14)
  })

  test('starts and ends at the minimum', () => {
    for (const scheduler of ['warmup_decay', 'cosine'] as const) {
      const schedule: ScheduleOptions = { ...base, scheduler, minimum: 1e-6 }
      expect(learningRateAt(0, schedule)).toBe(1e-6)
      expect(learningRateAt(703, schedule)).toBeCloseTo(1e-6, 18)
      expect(learningRateAt(9999, schedule)).toBeCloseTo(1e-6, 18)
    }
  })

  test('lies between minimum and peak, rises through the warm-up and never after it', () => {
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
        const rates = Array.from({ length: schedule.totalSteps }, (_, step) => learningRateAt(step, schedule))
        for (const [step, rate] of rates.entries()) {
          expect(rate).toBeGreaterThanOrEqual(schedule.minimum)
          expect(rate).toBeLessThanOrEqual(schedule.peak * (1 + 1e-12))
          if (step === 0) continue
          if (step < schedule.warmupSteps) expect(rate).toBeGreaterThan(rates[step - 1])
          else if (step > schedule.warmupSteps) expect(rate).toBeLessThanOrEqual(rates[step - 1])
        }
      }),
      { seed: 3 },
    )
  })
})
