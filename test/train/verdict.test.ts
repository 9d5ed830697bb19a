import { expect, test } from 'vitest'
import type { EndEvent, ValidationEvent } from '../../lib/train/events.js'
import { verdictOf } from '../../lib/train/report/verdict.js'
import { startEvent, stepEvent } from './run.js'

const end: EndEvent = { type: 'end', step: 100, reason: 'completed', seconds: 1 }

/** The verdict on a hundred steps with losses and validation losses, four epochs long. */
function verdict(
  loss: (step: number) => number,
  {
    validation = [],
    accuracy = 0.5,
    recipe = {},
    ending = end,
  }: {
    validation?: number[]
    accuracy?: number
    recipe?: Record<string, unknown>
    ending?: EndEvent
  } = {},
): string | undefined {
  const steps = Array.from({ length: 100 }, (_, i) => ({
    ...stepEvent(i + 1),
    loss: loss(i + 1),
    token_accuracy: accuracy,
  }))
  const validations = validation.map(
    (value): ValidationEvent => ({ type: 'validation', step: 1, loss: value, token_accuracy: 0 }),
  )
  return verdictOf({ start: startEvent(0, { name: 'tiny', ...recipe }), steps, validations, end: ending })
}
const falling = (step: number) => 4 / (1 + step / 20)
const memorizing = (step: number) => 4 * 0.9 ** step

test('a run that learns has no verdict', () => {
  expect(verdict(falling)).toBeUndefined()
  expect(verdict(falling, { validation: [4, 2, 1, 1.02] })).toBeUndefined()
  expect(verdict((step) => falling(step) * (step % 2 ? 1.5 : 0.7))).toBeUndefined()
})

test('a run that is all warm-up gets that verdict, whatever its losses', () => {
  expect(verdict(falling, { recipe: { warmup_steps: 100 } })).toMatch(
    /^All warm-up: the warm-up of 100 steps is as long as the run of 100, .* rose to 1e-4 of 2e-5/,
  )
  expect(verdict(falling, { recipe: { warmup_steps: 99 } })).toBeUndefined()
})

test('a run whose loss rises, or rises again, or is not finite has diverged', () => {
  expect(verdict((step) => 2 + step / 50)).toMatch(/^Diverged: the loss ended at 3.9/)
  expect(verdict((step) => (step < 60 ? falling(step) : 3.5))).toMatch(/^Diverged/)
  const failed: EndEvent = { ...end, reason: 'failed', message: 'the gradient is not finite at step 3' }
  expect(verdict(falling, { ending: failed })).toMatch(/^Diverged: a loss or gradient was not finite/)
  expect(verdict(falling, { ending: { ...end, reason: 'failed', message: 'the disk is full' } })).toBeUndefined()
})

test('a run has memorized its data when the validation loss rises, or when nothing was held out', () => {
  expect(verdict(memorizing, { validation: [3, 1, 1.5] })).toMatch(/^Memorized: the validation loss rose from 1 to 1.5/)
  expect(verdict(memorizing, { validation: [3, 1, 0.01], accuracy: 1 })).toBeUndefined()
  expect(verdict(memorizing, { accuracy: 0.995 })).toMatch(/^Memorized: after 4 epochs .* 99.5 % .*--validation_size/)
  expect(verdict(memorizing, { accuracy: 0.9 })).toBeUndefined()
})

test('a completed run whose loss hardly falls has hardly trained', () => {
  expect(verdict((step) => 4 - step / 1000)).toMatch(/^Hardly trained: the loss went from 3.99\d* to 3.9/)
  expect(verdict((step) => 4 - step / 1000, { ending: { ...end, reason: 'stopped' } })).toBeUndefined()
})
