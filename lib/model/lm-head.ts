/**
 * The final norm, the output projection and the loss, computed in chunks and only for the rows that need them: in a
 * packed batch of instructions about every third token has a label, and the full T × V logits never exist at once.
 */
import type { Device } from '../device.js'
import * as ops from '../ops.js'
import type { DType, Tensor } from '../tensor.js'
import type { Activations } from './activations.js'
import type { LlamaConfig } from './config.js'
import type { Context } from './transformer.js'

/** Row counts are rounded up to multiples of this, so that matrix products have few distinct shapes. */
const rowStep = 64

/** The maximum number of logits at once: 64 MiB in float32. */
const maxLogits = 1 << 24

/** The labeled rows of a batch, as host arrays. */
export interface LabeledRows {
  /** Row of the batch. */
  rows: Int32Array
  /** The token to predict. */
  labels: Int32Array
  /** The weight of its loss. */
  weights: Float32Array
}

/** The labeled rows (labels below 0 are ignored). */
export function labeledRows(labels: Int32Array, weights: Float32Array): LabeledRows {
  const rows = Int32Array.from(labels.keys()).filter((row) => labels[row] >= 0)
  return {
    rows,
    labels: Int32Array.from(rows, (row) => labels[row]),
    weights: Float32Array.from(rows, (row) => weights[row]),
  }
}

/** Copies host rows into `size` entries, padded with `rest`. */
function padded<T extends Int32Array | Float32Array>(array: T, start: number, size: number, rest: number): T {
  const result = new (array.constructor as new (n: number) => T)(size).fill(rest) as T
  result.set(array.subarray(start, start + size) as never)
  return result
}

export class LmHead implements Disposable {
  private readonly memory: Record<
    'rows' | 'labels' | 'weights' | 'sum' | 'delta' | 'y' | 'rstd' | 'logits' | 'dy',
    Tensor
  >
  private readonly losses: Tensor
  private readonly correct: Tensor
  readonly chunk: number

  constructor(device: Device, config: LlamaConfig, dtype: DType, maxTokens: number) {
    const fitting = Math.floor(maxLogits / config.vocabSize / rowStep) * rowStep
    this.chunk = Math.min(Math.max(fitting, rowStep), roundUp(maxTokens))
    const { chunk } = this
    const { hiddenSize, vocabSize } = config
    this.memory = {
      rows: device.tensor('int32', [chunk]),
      labels: device.tensor('int32', [chunk]),
      weights: device.tensor('float32', [chunk]),
      sum: device.tensor(dtype, [chunk, hiddenSize]),
      delta: device.tensor(dtype, [chunk, hiddenSize]),
      y: device.tensor(dtype, [chunk, hiddenSize]),
      rstd: device.tensor('float32', [chunk]),
      logits: device.tensor(dtype, [chunk, vocabSize]),
      dy: device.tensor(dtype, [chunk, hiddenSize]),
    }
    this.losses = device.tensor('float32', [roundUp(maxTokens)])
    this.correct = device.tensor('int32', [roundUp(maxTokens)])
  }

  get bytes(): number {
    const tensors = [...Object.values(this.memory), this.losses, this.correct]
    return tensors.reduce((sum, { byteLength }) => sum + byteLength, 0)
  }

  /**
   * Writes the logits of some rows of the batch, at most `chunk`, into out[rows.length, V].
   * @returns out
   */
  logits(context: Context, activations: Activations, rows: Int32Array, out?: Tensor): Tensor {
    const { sum, delta, y, rstd, logits: own, rows: index } = this.views(rows.length)
    const logits = out ?? own
    const { stream, config, layers } = context
    const { residualMid } = activations.blocks[config.numHiddenLayers - 1]
    stream.write(index, rows)
    ops.embeddingForward(stream, { out: sum, ids: index, w: residualMid })
    ops.embeddingForward(stream, { out: delta, ids: index, w: activations.residualUpdate })
    layers.finalNorm.addForward(stream, { y, rstd, sum, x: sum, delta })
    layers.lmHead.forward(stream, logits, y)
    return logits
  }

  /**
   * Losses of the labeled rows. With `writeGradient`, also accumulates the gradients of the final norm and the
   * projection and writes that of the residual stream to `activations.gradients.residual`.
   */
  loss(context: Context, activations: Activations, labeled: LabeledRows, writeGradient: boolean): void {
    const { stream, layers } = context
    if (writeGradient) ops.fill(stream, { x: activations.gradients!.residual, value: 0 })
    for (let start = 0; start < labeled.rows.length; start += this.chunk) {
      const count = Math.min(this.chunk, labeled.rows.length - start)
      const size = roundUp(count)
      const view = this.views(size)
      const { logits, labels, sum, dy, y, rstd, rows } = view
      this.logits(context, activations, padded(labeled.rows, start, size, 0))
      stream.write(labels, padded(labeled.labels, start, size, -1))
      stream.write(view.weights, padded(labeled.weights, start, size, 0))
      ops.crossEntropy(stream, {
        logits,
        losses: this.losses.rows(start, start + size),
        correct: this.correct.rows(start, start + size),
        labels,
        weights: view.weights,
        writeGradient,
      })
      if (!writeGradient) continue
      layers.lmHead.backward(stream, dy, logits, y)
      const dx = view.delta
      ops.fill(stream, { x: dx, value: 0 })
      layers.finalNorm.backward(stream, { dx, dy, x: sum, rstd })
      ops.embeddingBackward(stream, { dw: activations.gradients!.residual, dout: dx, ids: rows })
    }
  }

  /** Losses and hits of the last `count` labeled rows that `loss` computed, in order. */
  async results(context: Context, count: number): Promise<{ losses: Float32Array; correct: Int32Array }> {
    const losses = new Float32Array(count)
    const correct = new Int32Array(count)
    if (count > 0) {
      await Promise.all([
        context.stream.read(this.losses.rows(0, count), losses),
        context.stream.read(this.correct.rows(0, count), correct),
      ])
    }
    return { losses, correct }
  }

  private readonly cachedViews = new Map<number, typeof this.memory>()

  private views(rows: number): typeof this.memory {
    let views = this.cachedViews.get(rows)
    if (!views) {
      views = Object.fromEntries(
        Object.entries(this.memory).map(([name, tensor]) => [name, tensor.rows(0, rows)]),
      ) as typeof this.memory
      this.cachedViews.set(rows, views)
    }
    return views
  }

  dispose(): void {
    for (const tensor of [...Object.values(this.memory), this.losses, this.correct]) tensor.dispose()
    this.cachedViews.clear()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

const roundUp = (rows: number) => Math.ceil(rows / rowStep) * rowStep
