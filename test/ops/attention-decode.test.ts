import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { forAll, headCounts, headSizes } from '../support/properties.js'
import { attention, type Heads } from '../support/references.js'
import { resultOf, tensorOf, valuesOf } from '../support/tensors.js'

const shapes = {
  // Tokens per sequence in the cache: one, a few, and more than one block of a split.
  lengths: fc.array(fc.oneof(fc.constantFrom(1, 2), fc.integer({ min: 3, max: 80 }), fc.constantFrom(128, 129, 300)), {
    minLength: 1,
    maxLength: 4,
  }),
  spare: fc.integer({ min: 0, max: 9 }),
  heads: headCounts,
  headSize: headSizes,
}

const widthOf = ({ numHeads, numKvHeads, headSize }: Heads) => (numHeads + 2 * numKvHeads) * headSize

/** 0 … n−1 in random order. */
function shuffled(n: number, random: Random): number[] {
  const order = Array.from({ length: n }, (_, i) => i)
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1)
    ;[order[i], order[j]] = [order[j], order[i]]
  }
  return order
}

describe.each(devices)('kv_cache_write on $name', ({ device }) => {
  const stream = device.stream

  it.each(floatDTypes)(
    'kvCacheWrite stores keys and values of %s at their positions, and changes nothing else',
    async (dtype) => {
      const all = { sequences: fc.integer({ min: 1, max: 4 }), positions: fc.integer({ min: 1, max: 20 }) }
      await forAll({ ...all, heads: headCounts, headSize: headSizes }, async ({ sequences, positions, ...rest }) => {
        const {
          heads: [numHeads, numKvHeads],
          headSize,
          random,
        } = rest
        const places = shuffled(sequences * positions, random).slice(0, 1 + random.below(sequences * positions))
        const tokens = places.length + 1 // the last one is padding
        const heads = { numHeads, numKvHeads, headSize }
        const qkv = random.normals(dtype, tokens * widthOf(heads))
        const shape = [sequences, positions, numKvHeads, headSize]
        const [kCache, vCache] = [resultOf(device, dtype, shape), resultOf(device, dtype, shape)]
        const sequenceOf = [...places.map((place) => Math.floor(place / positions)), -1]
        const positionOf = [...places.map((place) => place % positions), 0]
        ops.kvCacheWrite(stream, {
          kCache,
          vCache,
          qkv: tensorOf(device, dtype, [tokens, numHeads + 2 * numKvHeads, headSize], qkv),
          sequences: tensorOf(device, 'int32', [tokens], sequenceOf),
          positions: tensorOf(device, 'int32', [tokens], positionOf),
          numHeads,
          numKvHeads,
        })
        const size = numKvHeads * headSize
        const expected = [0, 1].map(() => new Float64Array(sequences * positions * size).fill(Number.NaN))
        places.forEach((place, t) => {
          const keys = (t * (numHeads + 2 * numKvHeads) + numHeads) * headSize
          expected[0].set(qkv.subarray(keys, keys + size), place * size)
          expected[1].set(qkv.subarray(keys + size, keys + 2 * size), place * size)
        })
        expect(await valuesOf(kCache)).toEqual(expected[0])
        expect(await valuesOf(vCache)).toEqual(expected[1])
      })
    },
  )

  it('kvCacheWrite keeps the last of several tokens at one position', async () => {
    // More tokens than a block of any kernel has threads; every third goes to the same position.
    const tokens = 301
    const qkv = Float64Array.from({ length: tokens * 3 * 4 }, (_, i) => Math.floor(i / 12))
    const [kCache, vCache] = [0, 1].map(() => tensorOf(device, 'float32', [2, 3, 1, 4], -1))
    ops.kvCacheWrite(stream, {
      kCache,
      vCache,
      qkv: tensorOf(device, 'float32', [tokens, 3, 4], qkv),
      sequences: tensorOf(device, 'int32', [tokens], 1),
      positions: tensorOf(
        device,
        'int32',
        [tokens],
        Array.from({ length: tokens }, (_, t) => t % 3),
      ),
      numHeads: 1,
      numKvHeads: 1,
    })
    const expected = [-1, -1, -1, 300, 298, 299].flatMap((token) => Array(4).fill(token))
    for (const cache of [kCache, vCache]) expect(Array.from(await valuesOf(cache))).toEqual(expected)
  })

  it.each([
    [5, 0, 'position 5 is outside [0, 5)'],
    [-1, 0, 'position -1 is outside [0, 5)'],
    [0, 2, 'sequence 2 is outside [0, 2)'],
  ])(
    'kvCacheWrite rejects position %i of sequence %i in a cache of two sequences of five',
    async (position, sequence, message) => {
      const shape = [2, 5, 1, 4]
      ops.kvCacheWrite(stream, {
        kCache: resultOf(device, 'float32', shape),
        vCache: resultOf(device, 'float32', shape),
        qkv: resultOf(device, 'float32', [2, 3, 4]),
        sequences: tensorOf(device, 'int32', [2], [1, sequence]),
        positions: tensorOf(device, 'int32', [2], [4, position]),
        numHeads: 1,
        numKvHeads: 1,
      })
      await expect(stream.synchronize()).rejects.toMatchObject({
        code: 'INVALID_INDEX',
        message: `kv_cache_write: ${message}`,
      })
    },
  )
})

describe.each(devices)('attention_decode on $name', ({ device }) => {
  const stream = device.stream

  /** Stores full sequences in a cache and computes the attention of their last tokens. */
  function decode(dtype: FloatDType, heads: Heads, lengths: number[], size: number, qkvs: Float64Array[]) {
    const { numHeads, numKvHeads, headSize } = heads
    const sequences = lengths.length
    const shape = [sequences, size, numKvHeads, headSize]
    // Filled with NaN: elements behind a sequence's position must not be read.
    const caches = { kCache: resultOf(device, dtype, shape), vCache: resultOf(device, dtype, shape) }
    const tokenShape = [numHeads + 2 * numKvHeads, headSize]
    qkvs.forEach((qkv, sequence) => {
      const tokens = lengths[sequence]
      ops.kvCacheWrite(stream, {
        ...caches,
        qkv: tensorOf(device, dtype, [tokens, ...tokenShape], qkv),
        sequences: tensorOf(device, 'int32', [tokens], sequence),
        positions: tensorOf(
          device,
          'int32',
          [tokens],
          Array.from({ length: tokens }, (_, i) => i),
        ),
        numHeads,
        numKvHeads,
      })
    })
    const last = qkvs.flatMap((qkv) => Array.from(qkv.subarray(qkv.length - widthOf(heads))))
    const out = resultOf(device, dtype, [sequences, numHeads, headSize])
    ops.attentionDecode(stream, {
      out,
      qkv: tensorOf(device, dtype, [sequences, ...tokenShape], last),
      ...caches,
      positions: tensorOf(
        device,
        'int32',
        [sequences],
        lengths.map((length) => length - 1),
      ),
      numHeads,
      numKvHeads,
      scale: 1 / Math.sqrt(headSize),
    })
    return out
  }

  it.each(floatDTypes)(
    'attentionDecode matches the last row of attention over the full sequence, in %s',
    async (dtype) => {
      await forAll(
        shapes,
        async ({ lengths, spare, heads: [numHeads, numKvHeads], headSize, random }) => {
          const heads = { numHeads, numKvHeads, headSize }
          const qkvs = lengths.map((length) => random.normals(dtype, length * widthOf(heads)))
          const out = decode(dtype, heads, lengths, Math.max(...lengths) + spare, qkvs)
          const expected = qkvs.flatMap((qkv, i) => {
            const shape = { ...heads, cuSeqlens: [0, lengths[i]], scale: 1 / Math.sqrt(headSize), lastOnly: true }
            return Array.from(attention(qkv, shape).out.subarray(-numHeads * headSize))
          })
          // float32: same as attention. bfloat16: the result is rounded, and a kernel may round the probabilities.
          expectClose(await valuesOf(out), expected, { ofLargest: dtype === 'float32' ? 1e-5 : 2e-2 })
        },
        15,
      )
    },
  )

  it('attentionDecode of long caches stays finite when scores are in the thousands', async () => {
    // Integers and a scale of 1/4 = 1/√16 make every score exact; see the attention test for the bound.
    const random = new Random(8)
    const heads = { numHeads: 4, numKvHeads: 2, headSize: 16 }
    const lengths = [1000, 257]
    const qkvs = lengths.map((length) => {
      return Float64Array.from({ length: length * widthOf(heads) }, () => random.below(41) - 20)
    })
    const expected = qkvs.flatMap((qkv, i) => {
      const shape = { ...heads, cuSeqlens: [0, lengths[i]], scale: 0.25, lastOnly: true }
      return Array.from(attention(qkv, shape).out.subarray(-64))
    })
    expectClose(await valuesOf(decode('float32', heads, lengths, 1001, qkvs)), expected, { ofLargest: 2e-3 })
  })

  it.each(floatDTypes)('attentionDecode gives a sequence the same bits alone and in a batch, in %s', async (dtype) => {
    const random = new Random(9)
    const heads = { numHeads: 6, numKvHeads: 2, headSize: 100 }
    const lengths = [65, 1, 200, 64]
    const qkvs = lengths.map((length) => random.normals(dtype, length * widthOf(heads)))
    const together = Array.from(await valuesOf(decode(dtype, heads, lengths, 210, qkvs)))
    const width = 600
    for (const [i, length] of lengths.entries()) {
      const alone = Array.from(await valuesOf(decode(dtype, heads, [length], length, [qkvs[i]])))
      expect(alone).toEqual(together.slice(i * width, (i + 1) * width))
    }
  })

  it('attentionDecode rejects a position behind the end of the cache', async () => {
    ops.attentionDecode(stream, {
      out: resultOf(device, 'float32', [1, 1, 4]),
      qkv: tensorOf(device, 'float32', [1, 3, 4], 0),
      kCache: tensorOf(device, 'float32', [1, 5, 1, 4], 0),
      vCache: tensorOf(device, 'float32', [1, 5, 1, 4], 0),
      positions: tensorOf(device, 'int32', [1], [5]),
      numHeads: 1,
      numKvHeads: 1,
      scale: 1,
    })
    await expect(stream.synchronize()).rejects.toMatchObject({
      code: 'INVALID_INDEX',
      message: 'attention_decode: position 5 is outside [0, 5)',
    })
  })
})
