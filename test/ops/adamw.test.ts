import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, expectSameBits, roundoff } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { encode, type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { adamWTrajectory } from '../support/op-fixtures.js'
import { forAll } from '../support/properties.js'
import { adamW } from '../support/references.js'
import { resultOf, tensorOf, valuesOf, viewOf } from '../support/tensors.js'

const cases = {
  n: fc.constantFrom(1, 7, 16, 100, 4095, 4097, 20_000),
  lr: fc.constantFrom(0, 2e-5, 1e-3, 0.1),
  weightDecay: fc.constantFrom(0, 0.001, 0.1),
  gradScale: fc.constantFrom(1, 0.25, 1 / 3),
  step: fc.constantFrom(1, 2, 50, 10_000),
}
const constants = { beta1: 0.9, beta2: 0.95, eps: 1e-8 }
const pairs = floatDTypes.flatMap((weights) => floatDTypes.map((grad) => [weights, grad] as [FloatDType, FloatDType]))

describe.each(devices)('adamw on $name', ({ device }) => {
  const stream = device.stream

  it.each(pairs)(
    'adamw updates masters and moments and rounds weights to %s, from gradients of %s',
    async (dtype, gradDType) => {
      await forAll(
        cases,
        async ({ n, random, ...options }) => {
          const all = { ...options, ...constants }
          const [master, m, v] = [
            random.normals('float32', n),
            random.normals('float32', n, 0.1),
            random.normals('float32', n),
          ]
          const grad = random.normals(gradDType, n)
          const squares = v.map((value) => Math.fround(value * value))
          const state = {
            master: tensorOf(device, 'float32', [n], master),
            m: tensorOf(device, 'float32', [n], m),
            v: tensorOf(device, 'float32', [n], squares),
          }
          const weights = resultOf(device, dtype, [n])
          ops.adamw(stream, { weights, ...state, grad: tensorOf(device, gradDType, [n], grad), ...all })
          const expected = Array.from(master, (value, i) => adamW(value, m[i], squares[i], grad[i], all))
          // About ten operations in float32. Those on m and on the master may cancel, so the bound is relative to their
          // terms.
          const moments = expected.map((_, i) => 8 * roundoff.float32 * (Math.abs(m[i]) + Math.abs(grad[i])))
          expectClose(
            await valuesOf(state.m),
            expected.map((e) => e.m),
            { absolute: moments },
          )
          expectClose(
            await valuesOf(state.v),
            expected.map((e) => e.v),
            { relative: 8 * roundoff.float32 },
          )
          const stepped = await valuesOf(state.master)
          const masters = expected.map((e, i) => {
            const change = Math.abs(e.master - master[i])
            const spread = moments[i] / Math.max(Math.abs(e.m), 1e-30)
            return roundoff.float32 * (3 * Math.abs(master[i]) + 24 * change) + change * spread
          })
          expectClose(
            stepped,
            expected.map((e) => e.master),
            { absolute: masters },
          )
          expectSameBits(await weights.toArray(), encode(dtype, stepped))
        },
        12,
      )
    },
  )

  it.each(floatDTypes)(
    'adamw follows torch.optim.AdamW over several steps, also without weights; gradients of %s',
    async (dtype) => {
      const { initial, steps, ...options } = adamWTrajectory
      const n = initial.length
      const state = {
        master: tensorOf(device, 'float32', [n], initial),
        m: tensorOf(device, 'float32', [n], 0),
        v: tensorOf(device, 'float32', [n], 0),
      }
      for (const [i, { lr, grad, parameters, m, v }] of steps.entries()) {
        ops.adamw(stream, {
          ...state,
          grad: tensorOf(device, dtype, [n], grad),
          ...options,
          lr,
          gradScale: 1,
          step: i + 1,
        })
        // Both compute in float32, in an order that may differ: some roundoffs per step. With bfloat16, gradients are
        // rounded first, by 2⁻⁸; a step, which is at most about lr, changes by about that fraction.
        const bound = dtype === 'float32' ? 1e-6 : 2 ** -7
        expectClose(await valuesOf(state.m), m, { ofLargest: bound })
        expectClose(await valuesOf(state.v), v, { ofLargest: 2 * bound })
        const absolute = parameters.map(() => (dtype === 'float32' ? 0 : 4 * 2 ** -8 * 0.017))
        expectClose(await valuesOf(state.master), parameters, { ofLargest: 1e-6, absolute })
      }
    },
  )

  it('adamw multiplies gradients by gradScale, for clipping', async () => {
    const scaled = [1, 0.125].map((gradScale) => {
      const state = {
        master: tensorOf(device, 'float32', [3], [1, -2, 3]),
        m: tensorOf(device, 'float32', [3], 0),
        v: tensorOf(device, 'float32', [3], 0),
      }
      const grad = tensorOf(
        device,
        'float32',
        [3],
        [1, 2, -3].map((value) => value / gradScale),
      )
      ops.adamw(stream, { ...state, grad, ...constants, lr: 0.1, weightDecay: 0, gradScale, step: 1 })
      return state
    })
    for (const name of ['master', 'm', 'v'] as const) {
      expectSameBits(await scaled[0][name].toArray(), await scaled[1][name].toArray())
    }
  })

  it.each(pairs)(
    'adamw gives the same bits wherever a shard of %s weights and %s gradients begins',
    async (dtype, gradDType) => {
      for (const n of [1, 1025, 1028]) {
        const random = new Random(n)
        const values = [0, 1].map(() => random.normals('float32', n))
        const [squares, grad] = [values[0].map((value) => Math.fround(value * value)), random.normals(gradDType, n)]
        const results = [0, 1, 2].map((offset) => {
          const weights = viewOf(device, dtype, [n], new Float64Array(n), offset)
          const [master, m, v] = [values[0], values[1], squares].map((x) => viewOf(device, 'float32', [n], x, offset))
          const gradient = viewOf(device, gradDType, [n], grad, offset)
          const options = { lr: 1e-3, weightDecay: 0.1, gradScale: 0.5, step: 3 }
          ops.adamw(stream, { weights, master, m, v, grad: gradient, ...constants, ...options })
          return [weights, master, m, v]
        })
        for (const [i, first] of results[0].entries()) {
          const expected = await first.toArray()
          for (const result of results.slice(1)) expectSameBits(await result[i].toArray(), expected)
        }
      }
    },
  )

  it('adamw changes nothing after a failed op', async () => {
    const state = [1, 2, 3].map((value) => tensorOf(device, 'float32', [5], value))
    const [weights, grad] = [tensorOf(device, 'bfloat16', [5], 4), tensorOf(device, 'float32', [1, 5], 1)]
    const [master, m, v] = state
    // The gradient of an id that does not exist.
    ops.embeddingBackward(stream, { dw: grad, dout: grad, ids: tensorOf(device, 'int32', [1], [1]) })
    const options = { lr: 0.1, weightDecay: 0, gradScale: 1, step: 1 }
    ops.adamw(stream, { weights, master, m, v, grad: grad.view([5]), ...constants, ...options })
    await expect(stream.synchronize()).rejects.toMatchObject({ code: 'INVALID_INDEX' })
    for (const [i, tensor] of [...state, weights].entries()) {
      expect(await valuesOf(tensor)).toEqual(new Float64Array(5).fill(i + 1))
    }
  })

  it('adamw with a learning rate of zero updates only the moments', async () => {
    const master = tensorOf(device, 'float32', [2], [0.1, -7])
    const [m, v] = [tensorOf(device, 'float32', [2], 0), tensorOf(device, 'float32', [2], 0)]
    const grad = tensorOf(device, 'float32', [2], [1, 2])
    ops.adamw(stream, { master, m, v, grad, ...constants, lr: 0, weightDecay: 0.1, gradScale: 1, step: 1 })
    expect(await master.toArray()).toEqual(Float32Array.of(0.1, -7))
    expectClose(await valuesOf(m), [0.1, 0.2], { relative: 1e-6 })
  })
})
