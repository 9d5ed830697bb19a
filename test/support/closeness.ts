/** Comparisons with a reference, which report the position and the size of an error. */
import { expect } from 'vitest'
import type { FloatDType } from './numbers.js'

/** The maximum relative change from rounding to a dtype: half a unit in the last place. */
export const roundoff: Record<FloatDType, number> = { float32: 2 ** -24, bfloat16: 2 ** -8 }

export interface Tolerance {
  /** Relative to each expected value; a number, or one per element. */
  relative?: number
  /** Relative to the largest expected magnitude. */
  ofLargest?: number
  /** Absolute, one per element. */
  absolute?: ArrayLike<number>
}

/** Infinities must be equal; NaN is allowed only if NaN is expected. */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { relative = 0, ofLargest = 0, absolute }: Tolerance,
): void {
  expect(actual.length).toBe(expected.length)
  let largest = 0
  for (let i = 0; i < expected.length; i++) {
    if (Number.isFinite(expected[i])) largest = Math.max(largest, Math.abs(expected[i]))
  }
  for (let i = 0; i < expected.length; i++) {
    const allowed = relative * Math.abs(expected[i]) + ofLargest * largest + (absolute?.[i] ?? 0)
    // Written so that a NaN fails.
    const close = Number.isFinite(expected[i])
      ? Math.abs(actual[i] - expected[i]) <= allowed
      : Object.is(actual[i], expected[i])
    if (!close) {
      expect.fail(`element ${i} of ${expected.length} is ${actual[i]} and not ${expected[i]} ± ${allowed}`)
    }
  }
}

/** ‖actual − expected‖ ≤ bound · ‖expected‖, for results whose elements may cancel. */
export function expectSmallError(actual: ArrayLike<number>, expected: ArrayLike<number>, bound: number): void {
  expect(actual.length).toBe(expected.length)
  let error = 0
  let size = 0
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i] - expected[i]) ** 2
    size += expected[i] ** 2
  }
  if (!(Math.sqrt(error) <= bound * Math.sqrt(size))) {
    expect.fail(`the relative error is ${Math.sqrt(error / size)}, more than ${bound}`)
  }
}

/** The same bits: NaN equals itself, and 0 is not −0. */
export function expectSameBits(actual: ArrayBufferView, expected: ArrayBufferView): void {
  const [a, b] = [actual, expected].map(({ buffer, byteOffset, byteLength }) => {
    return Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength)
  })
  if (a.equals(b)) return
  expect(a.length).toBe(b.length)
  const byte = a.findIndex((value, i) => value !== b[i])
  expect.fail(`the bits differ first in byte ${byte} of ${a.length}`)
}
