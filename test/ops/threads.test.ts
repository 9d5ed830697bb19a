import { afterEach, describe, expect, it } from 'vitest'
import { samplingTensors } from '../../lib/generate/sampling-tensors.js'
import * as ops from '../../lib/ops.js'
import type { Tensor } from '../../lib/tensor.js'
import { expectSameBits } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { ropeTable } from '../support/references.js'
import { resultOf, tensorOf } from '../support/tensors.js'

describe.each(devices)('on $name', ({ device }) => {
  const stream = device.stream
  const threads = device.properties.units
  afterEach(() => device.setThreads(threads))

  let streamId = 0
  /** Normal samples, the same in each run. */
  function drawn(dtype: FloatDType, shape: number[], std = 1): Tensor {
    const tensor = device.tensor(dtype, shape)
    ops.randomNormal(stream, { x: tensor.view([tensor.length]), std, seed: 42, streamId: streamId++ })
    return tensor
  }
  const ints = (shape: number[], limit: number) => {
    const count = shape.reduce((a, b) => a * b)
    return tensorOf(device, 'int32', shape, new Random(streamId++).integers(count, limit))
  }

  /** Each op, on more elements than one thread would process, with sizes that do not divide evenly. */
  const cases: Record<string, (dtype: FloatDType) => Tensor[]> = {
    random_normal: (dtype) => [drawn(dtype, [100_003])],
    cast: (dtype) => {
      const dst = resultOf(device, dtype === 'float32' ? 'bfloat16' : 'float32', [100_003])
      ops.cast(stream, { dst, src: drawn(dtype, [100_003]) })
      return [dst]
    },
    embedding: (dtype) => {
      const ids = ints([501], 40)
      const [out, dw] = [resultOf(device, dtype, [501, 100]), drawn('float32', [40, 100])]
      ops.embeddingForward(stream, { out, ids, w: drawn(dtype, [40, 100]) })
      ops.embeddingBackward(stream, { dw, dout: out, ids })
      return [out, dw]
    },
    rmsnorm: (dtype) => {
      const shape = [1203, 100]
      const [y, sum, rstd] = [
        resultOf(device, dtype, shape),
        resultOf(device, dtype, shape),
        resultOf(device, 'float32', [1203]),
      ]
      const w = drawn(dtype, [100])
      ops.addRmsNormForward(stream, { y, rstd, sum, x: drawn(dtype, shape), delta: drawn(dtype, shape), w, eps: 1e-6 })
      const [dx, dw] = [drawn(dtype, shape), drawn('float32', [100])]
      ops.rmsNormBackward(stream, { dx, dw, dy: drawn(dtype, shape), x: sum, w, rstd })
      return [y, rstd, sum, dx, dw]
    },
    matmul: (dtype) => {
      return [1, 5, 300].flatMap((m) => {
        const [a, b, dy] = [drawn(dtype, [m, 500]), drawn(dtype, [270, 500]), drawn(dtype, [m, 270])]
        const [y, dx, dw] = [
          resultOf(device, dtype, [m, 270]),
          resultOf(device, dtype, [m, 500]),
          drawn('float32', [270, 500]),
        ]
        ops.matmul(stream, { c: y, a, b, transposeB: true })
        ops.matmul(stream, { c: dx, a: dy, b })
        ops.matmul(stream, { c: dw, a: dy, b: a, transposeA: true, beta: 1 })
        return [y, dx, dw]
      })
    },
    rope: (dtype) => {
      const { cos, sin } = ropeTable(64, 100)
      const qkv = drawn(dtype, [203, 4, 100])
      const table = { cos: tensorOf(device, 'float32', [64, 50], cos), sin: tensorOf(device, 'float32', [64, 50], sin) }
      ops.ropeForward(stream, { qkv, ...table, positions: ints([203], 64), numHeads: 2, numKvHeads: 1 })
      return [qkv]
    },
    attention: (dtype) => {
      const [T, H, K, D] = [331, 4, 2, 100]
      const heads = { numHeads: H, numKvHeads: K, scale: 0.1 }
      const qkv = drawn(dtype, [T, H + 2 * K, D])
      const cuSeqlens = tensorOf(device, 'int32', [4], [0, 200, 203, T])
      const [out, lse] = [resultOf(device, dtype, [T, H, D]), resultOf(device, 'float32', [H, T])]
      ops.attentionForward(stream, { out, lse, qkv, cuSeqlens, ...heads })
      const [dqkv, delta] = [resultOf(device, dtype, [T, H + 2 * K, D]), resultOf(device, 'float32', [H, T])]
      ops.attentionBackward(stream, { dqkv, delta, dout: drawn(dtype, [T, H, D]), out, lse, qkv, cuSeqlens, ...heads })
      return [out, lse, dqkv, delta]
    },
    attention_decode: (dtype) => {
      const [B, P, H, K, D] = [3, 700, 4, 2, 100]
      const out = resultOf(device, dtype, [B, H, D])
      ops.attentionDecode(stream, {
        out,
        qkv: drawn(dtype, [B, H + 2 * K, D]),
        kCache: drawn(dtype, [B, P, K, D]),
        vCache: drawn(dtype, [B, P, K, D]),
        positions: tensorOf(device, 'int32', [B], [0, 333, 699]),
        numHeads: H,
        numKvHeads: K,
        scale: 0.1,
      })
      return [out]
    },
    swiglu: (dtype) => {
      const [h, gateUp] = [resultOf(device, dtype, [301, 127]), drawn(dtype, [301, 254])]
      ops.swigluForward(stream, { h, gateUp })
      ops.swigluBackward(stream, { gateUp, dh: drawn(dtype, [301, 127]) })
      return [h, gateUp]
    },
    cross_entropy: (dtype) => {
      const logits = drawn(dtype, [37, 5003])
      const [losses, correct] = [resultOf(device, 'float32', [37]), resultOf(device, 'int32', [37])]
      const weights = tensorOf(device, 'float32', [37], 1)
      ops.crossEntropy(stream, { logits, losses, correct, labels: ints([37], 5003), weights, writeGradient: true })
      return [logits, losses, correct]
    },
    adamw: (dtype) => {
      const [weights, master, m] = [
        resultOf(device, dtype, [100_003]),
        drawn('float32', [100_003]),
        drawn('float32', [100_003]),
      ]
      const v = tensorOf(device, 'float32', [100_003], 0.5)
      const options = { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, gradScale: 0.3, step: 7 }
      ops.adamw(stream, { weights, master, m, v, grad: drawn(dtype, [100_003]), ...options })
      return [weights, master, m, v]
    },
    global_norm: (dtype) => {
      const out = resultOf(device, 'float32', [1])
      ops.globalNorm(stream, { out, x: drawn(dtype, [1_000_003]) })
      return [out]
    },
    sample: (dtype) => {
      const ids = resultOf(device, 'int32', [5])
      ops.sample(stream, {
        ids,
        positions: tensorOf(device, 'int32', [5], 0),
        history: tensorOf(device, 'int32', [5, 4], 3),
        logits: drawn(dtype, [5, 30_011]),
        sequenceSeeds: tensorOf(device, 'int32', [5], [1, 2, 3, 4, 5]),
        scratch: resultOf(device, 'float32', [5, 60_022]),
        ...samplingTensors(
          device,
          Array(5).fill({ temperature: 1.2, topP: 0.95, topK: 900, repetitionPenalty: 1.1, seed: 6 }),
        ),
      })
      return [ids]
    },
  }

  it.each(Object.keys(cases))(
    '%s gives the same bits with one, two, and three threads, and when repeated',
    async (name) => {
      for (const dtype of floatDTypes) {
        const results: ArrayBufferView[][] = []
        for (const count of [1, 2, 3, 2]) {
          device.setThreads(count)
          streamId = 0
          results.push(await Promise.all(cases[name](dtype).map((tensor) => tensor.toArray(stream))))
        }
        for (const result of results.slice(1)) {
          expect(result.length).toBe(results[0].length)
          for (const [i, array] of result.entries()) expectSameBits(array, results[0][i])
        }
      }
    },
  )
})
