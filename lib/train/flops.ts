import type { Device } from '../device.js'
import type { LlamaConfig } from '../model/config.js'
import { layoutOf } from '../model/layout.js'
import { matmul, randomNormal } from '../ops.js'
import { numel } from '../tensor.js'

/**
 * The model's floating-point operations in a training step: forward and backward (three times the forward) of every
 * matrix product, of the causal half of attention, and of the output projection for labeled tokens. Other work of an
 * implementation is not counted.
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

/** Measures the device's rate for a large matrix product, in operations per second. Takes a moment. */
export async function measurePeakFlops(device: Device, dtype: 'bfloat16' | 'float32'): Promise<number> {
  const size = { cpu: 1024, cuda: 8192 }[device.type] ?? 64 // the emulator has no meaningful rate
  const { stream } = device
  using a = device.tensor(dtype, [size, size])
  using b = device.tensor(dtype, [size, size])
  using c = device.tensor(dtype, [size, size])
  // Not zeros: a GPU multiplies those a tenth faster, because they take less power.
  for (const [streamId, x] of [a, b].entries()) {
    randomNormal(stream, { x: x.view([x.length]), std: 1, seed: 0, streamId })
  }
  const together = device.type === 'cuda' ? 10 : 1 // on a GPU, launches overlap execution
  // The best of many runs: other programs may be busy at the same time.
  let best = Number.POSITIVE_INFINITY
  for (let repeat = 0; repeat < 40; repeat++) {
    await stream.synchronize()
    const start = performance.now()
    for (let i = 0; i < together; i++) matmul(stream, { c, a, b, transposeB: true })
    await stream.synchronize()
    best = Math.min(best, (performance.now() - start) / together)
  }
  return (2 * size ** 3) / (best / 1000)
}
