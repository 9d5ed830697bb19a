import type { Device } from '../device.js'
import type { LlamaConfig } from '../model/config.js'
import { layoutOf } from '../model/layout.js'
import { fill, matmul } from '../ops.js'
import { numel } from '../tensor.js'

/**
 * Floating-point operations that the model itself asks for in a training step: forward and backward (three times the
 * forward) of every matrix product, of the causal half of attention, and of the output projection for the tokens that
 * have a label. What an implementation computes beside that is not counted.
 */
export function trainingFlops(config: LlamaConfig, lengths: Iterable<number>, labelTokens: number): number {
  const { blocks } = layoutOf(config)
  const matrices = blocks[0].parameters.filter(({ shape }) => shape.length === 2)
  const perToken = 6 * config.numHiddenLayers * matrices.reduce((sum, { shape }) => sum + numel(shape), 0)
  const attention = 6 * config.numHiddenLayers * config.numAttentionHeads * config.headDim
  let flops = 6 * config.vocabSize * config.hiddenSize * labelTokens
  for (const length of lengths) flops += perToken * length + attention * length * length
  return flops
}

/** The device's measured rate of a large matrix product, in operations a second. Takes a moment. */
export async function measurePeakFlops(device: Device, dtype: 'bfloat16' | 'float32'): Promise<number> {
  const size = device.type === 'cpu' ? 1024 : 8192
  const { stream } = device
  using a = device.tensor(dtype, [size, size])
  using b = device.tensor(dtype, [size, size])
  using c = device.tensor(dtype, [size, size])
  for (const x of [a, b, c]) fill(stream, { x, value: 0 })
  // The best of many: other programs may be busy at the same time.
  let best = Number.POSITIVE_INFINITY
  for (let repeat = 0; repeat < 40; repeat++) {
    await stream.synchronize()
    const start = performance.now()
    matmul(stream, { c, a, b, transposeB: true })
    await stream.synchronize()
    best = Math.min(best, performance.now() - start)
  }
  return (2 * size ** 3) / (best / 1000)
}
