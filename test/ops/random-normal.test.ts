import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, expectSameBits } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { encode, type FloatDType } from '../support/numbers.js'
import { resultOf, valuesOf } from '../support/tensors.js'

/** Φ, the cumulative distribution function of the normal distribution, by Simpson's rule on its density. */
function normalDistribution(x: number): number {
  const steps = 200
  const density = (t: number) => Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI)
  let sum = density(0) + density(x)
  for (let i = 1; i < steps; i++) sum += density((x * i) / steps) * (i % 2 ? 4 : 2)
  return 0.5 + (sum * x) / steps / 3
}

const mean = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0) / values.length

describe.each(devices)('random_normal on $name', ({ device }) => {
  async function draw(n: number, { seed = 1, streamId = 0, std = 1, dtype = 'float32' as FloatDType } = {}) {
    const x = resultOf(device, dtype, [n])
    ops.randomNormal(device.stream, { x, std, seed, streamId })
    return x
  }

  it('randomNormal has the moments of the normal distribution', async () => {
    const n = 100_000
    const x = await valuesOf(await draw(n))
    const moment = (power: number) => mean(x.map((value) => value ** power))
    // The k-th moment of n samples has a standard error of √((m₂ₖ − mₖ²) / n); the bounds are four standard errors.
    expect(Math.abs(moment(1))).toBeLessThan(4 * Math.sqrt(1 / n))
    expect(Math.abs(moment(2) - 1)).toBeLessThan(4 * Math.sqrt(2 / n))
    expect(Math.abs(moment(3))).toBeLessThan(4 * Math.sqrt(15 / n))
    expect(Math.abs(moment(4) - 3)).toBeLessThan(4 * Math.sqrt(96 / n))
  })

  it('randomNormal passes the Kolmogorov-Smirnov test', async () => {
    const n = 20_000
    const x = (await valuesOf(await draw(n, { seed: 7, std: 0.02 }))).sort()
    const distances = x.map((value, i) => {
      const expected = normalDistribution(value / 0.02)
      return Math.max(Math.abs(expected - i / n), Math.abs(expected - (i + 1) / n))
    })
    // One in a thousand samples exceeds 1.95 / √n.
    expect(Math.max(...distances)).toBeLessThan(1.95 / Math.sqrt(n))
  })

  it('randomNormal gives element i the same bits whatever the number of elements', async () => {
    const long = await (await draw(10_007)).toArray()
    for (const n of [1, 2, 3, 5, 4097]) expectSameBits(await (await draw(n)).toArray(), long.subarray(0, n))
  })

  it('randomNormal gives the same bits wherever a tensor begins, and writes nothing outside it', async () => {
    const expected = await (await draw(1030)).toArray()
    for (const offset of [1, 2, 3]) {
      const whole = resultOf(device, 'float32', [1030 + offset + 1])
      ops.randomNormal(device.stream, { x: whole.view([1030], offset), std: 1, seed: 1, streamId: 0 })
      expectSameBits((await whole.toArray()).subarray(offset, 1030 + offset), expected)
      const edges = (await valuesOf(whole)).filter((_, i) => i < offset || i >= 1030 + offset)
      expect(edges.every(Number.isNaN)).toBe(true)
    }
  })

  it('randomNormal in bfloat16 is the rounded float32, and scales with std', async () => {
    const x = await valuesOf(await draw(5001, { std: 0.5 }))
    expectSameBits(await (await draw(5001, { std: 0.5, dtype: 'bfloat16' })).toArray(), encode('bfloat16', x))
    const unit = await valuesOf(await draw(5001))
    expectSameBits(
      x,
      unit.map((value) => value / 2),
    )
  })

  it('randomNormal is uncorrelated between seeds, streams, and neighbors', async () => {
    const n = 20_000
    // Includes seeds beyond 32 bits and large streams.
    const settings = [
      {},
      { seed: 2 },
      { seed: 1 + 2 ** 32 },
      { seed: 2 ** 53 - 1 },
      { streamId: 1 },
      { streamId: 2 ** 33 },
    ]
    const draws = await Promise.all(settings.map(async (setting) => valuesOf(await draw(n, setting))))
    for (const a of draws) {
      for (const [j, b] of draws.entries()) {
        for (const lag of [0, 1, 2, 3, 4]) {
          if (a === b && lag === 0) continue
          const products = a.map((value, i) => value * b[(i + lag) % n])
          // A correlation of independent samples has a standard error of 1 / √n; the bound is five of them, over 175
          // comparisons.
          expect(Math.abs(mean(products)), `with draw ${j} at lag ${lag}`).toBeLessThan(5 / Math.sqrt(n))
        }
      }
    }
  })

  it('randomNormal matches the other devices up to rounding', async () => {
    const first = resultOf(devices[0].device, 'float32', [1000])
    ops.randomNormal(devices[0].device.stream, { x: first, std: 1, seed: 1, streamId: 0 })
    expectClose(await valuesOf(await draw(1000)), await valuesOf(first), { ofLargest: 1e-6 })
  })
})
