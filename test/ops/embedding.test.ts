import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, expectSameBits, roundoff } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { floatDTypes, Random } from '../support/numbers.js'
import { forAll, tokenCounts, widths } from '../support/properties.js'
import { rowsOf } from '../support/references.js'
import { resultOf, tensorOf, valuesOf, viewOf } from '../support/tensors.js'

const shapes = { tokens: tokenCounts, channels: widths, vocabulary: fc.integer({ min: 1, max: 300 }) }

describe.each(devices)('embedding on $name', ({ device }) => {
  const stream = device.stream

  it.each(floatDTypes)('embeddingForward copies the rows of its ids bit for bit, in %s', async (dtype) => {
    await forAll(shapes, async ({ tokens, channels, vocabulary, random }) => {
      const w = random.normals(dtype, vocabulary * channels)
      const ids = random.integers(tokens, vocabulary)
      const out = resultOf(device, dtype, [tokens, channels])
      ops.embeddingForward(stream, {
        out,
        ids: tensorOf(device, 'int32', [tokens], ids),
        w: tensorOf(device, dtype, [vocabulary, channels], w),
      })
      const rows = rowsOf(w, channels)
      expect(await valuesOf(out)).toEqual(Float64Array.from(Array.from(ids).flatMap((id) => Array.from(rows[id]))))
    })
  })

  it.each(floatDTypes)(
    'embeddingBackward adds gradients of %s to float32 in token order, bit for bit',
    async (dtype) => {
      await forAll(shapes, async ({ tokens, channels, vocabulary, random }) => {
        const few = Math.min(vocabulary, 5) // makes ids repeat
        const before = random.normals('float32', vocabulary * channels)
        const dout = random.normals(dtype, tokens * channels)
        const ids = random.integers(tokens, few)
        const dw = tensorOf(device, 'float32', [vocabulary, channels], before)
        ops.embeddingBackward(stream, {
          dw,
          dout: tensorOf(device, dtype, [tokens, channels], dout),
          ids: tensorOf(device, 'int32', [tokens], ids),
        })
        const expected = Float32Array.from(before)
        rowsOf(dout, channels).forEach((row, t) => {
          for (let i = 0; i < channels; i++) expected[ids[t] * channels + i] += row[i]
        })
        expectSameBits(await dw.toArray(), expected)
      })
    },
  )

  it('embeddingBackward adds gradients to bfloat16, rounding at most once per token', async () => {
    await forAll(shapes, async ({ tokens, channels, vocabulary, random }) => {
      const before = random.normals('bfloat16', vocabulary * channels)
      const dout = random.normals('bfloat16', tokens * channels)
      const ids = random.integers(tokens, vocabulary)
      const dw = tensorOf(device, 'bfloat16', [vocabulary, channels], before)
      ops.embeddingBackward(stream, {
        dw,
        dout: tensorOf(device, 'bfloat16', [tokens, channels], dout),
        ids: tensorOf(device, 'int32', [tokens], ids),
      })
      const expected = Float64Array.from(before)
      const allowed = new Float64Array(before.length) // each addition may round, by the roundoff of its result
      rowsOf(dout, channels).forEach((row, t) => {
        for (let i = 0; i < channels; i++) {
          const at = ids[t] * channels + i
          expected[at] += row[i]
          allowed[at] += 1.05 * roundoff.bfloat16 * (Math.abs(expected[at]) + allowed[at])
        }
      })
      expectClose(await valuesOf(dw), expected, { absolute: allowed })
    })
  })

  it.each(floatDTypes)('embedding supports rows of %s of any width and alignment', async (dtype) => {
    for (const channels of [24, 2056, 2060, 3200]) {
      const random = new Random(channels)
      const [tokens, vocabulary] = [12, 4]
      const [w, dout] = [random.normals(dtype, vocabulary * channels), random.normals(dtype, tokens * channels)]
      const ids = random.integers(tokens, vocabulary)
      for (const offset of [0, 1, 4]) {
        const idTensor = viewOf(device, 'int32', [tokens], ids, offset)
        const out = viewOf(device, dtype, [tokens, channels], new Float64Array(tokens * channels), offset)
        ops.embeddingForward(stream, {
          out,
          ids: idTensor,
          w: viewOf(device, dtype, [vocabulary, channels], w, offset),
        })
        const [rows, expected] = [await valuesOf(out), Float32Array.from(w)]
        const dw = viewOf(device, 'float32', [vocabulary, channels], w, offset)
        const gradient = viewOf(device, dtype, [tokens, channels], dout, offset)
        ops.embeddingBackward(stream, { dw, dout: gradient, ids: idTensor })
        ids.forEach((id, t) => {
          expectSameBits(
            rows.subarray(t * channels, (t + 1) * channels),
            w.subarray(id * channels, (id + 1) * channels),
          )
          for (let i = 0; i < channels; i++) expected[id * channels + i] += dout[t * channels + i]
        })
        expectSameBits(await dw.toArray(), expected)
      }
    }
  })

  it('embeddingBackward keeps token order in batches of thousands, and adds nothing if an id is invalid', async () => {
    const random = new Random(4)
    const [tokens, channels, vocabulary] = [8200, 4, 1000]
    const dout = random.normals('float32', tokens * channels)
    // A third of them are the same id, like line breaks in some texts.
    const ids = random.integers(tokens, vocabulary).map((id) => (id % 3 ? id : 42))
    const dw = tensorOf(device, 'float32', [vocabulary, channels], 1)
    const gradient = tensorOf(device, 'float32', [tokens, channels], dout)
    ops.embeddingBackward(stream, { dw, dout: gradient, ids: tensorOf(device, 'int32', [tokens], ids) })
    const expected = new Float32Array(vocabulary * channels).fill(1)
    ids.forEach((id, t) => {
      for (let i = 0; i < channels; i++) expected[id * channels + i] += dout[t * channels + i]
    })
    expectSameBits(await dw.toArray(), expected)
    ids[tokens - 1] = vocabulary
    ops.embeddingBackward(stream, { dw, dout: gradient, ids: tensorOf(device, 'int32', [tokens], ids) })
    await expect(stream.synchronize()).rejects.toMatchObject({ code: 'INVALID_INDEX' })
    expectSameBits(await dw.toArray(), expected)
  })

  it.each([-1, 5, 2 ** 31 - 1])(
    'embedding rejects id %i of a table of five rows at the next wait for the stream',
    async (id) => {
      const table = tensorOf(device, 'float32', [5, 3], 0)
      const rows = tensorOf(device, 'float32', [3, 3], 1)
      const ids = tensorOf(device, 'int32', [3], [0, id, 4])
      ops.embeddingForward(stream, { out: rows, ids, w: table })
      await expect(stream.synchronize()).rejects.toMatchObject({
        code: 'INVALID_INDEX',
        message: `embedding_forward: id ${id} is outside [0, 5)`,
      })
      ops.embeddingBackward(stream, { dw: table, dout: rows, ids })
      await expect(stream.synchronize()).rejects.toMatchObject({
        code: 'INVALID_INDEX',
        message: `embedding_backward: id ${id} is outside [0, 5)`,
      })
      expect(await valuesOf(table)).toEqual(new Float64Array(15)) // nothing was added before the error was detected
    },
  )

  it('embedding does nothing without tokens', async () => {
    const table = tensorOf(device, 'float32', [5, 3], 2)
    const rows = tensorOf(device, 'float32', [0, 3], [])
    const ids = tensorOf(device, 'int32', [0], [])
    ops.embeddingForward(stream, { out: rows, ids, w: table })
    ops.embeddingBackward(stream, { dw: table, dout: rows, ids })
    expect(await valuesOf(table)).toEqual(new Float64Array(15).fill(2))
  })
})
