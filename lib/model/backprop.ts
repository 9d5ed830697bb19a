/**
 * Loss and gradients of packed batches. Gradients are float32 sums, one flat buffer a unit, which successive batches
 * add into: that is gradient accumulation.
 */
import type { PackedBatch } from '../data/packing.js'
import * as ops from '../ops.js'
import type { Tensor } from '../tensor.js'
import { ActivationMemory } from './activations.js'
import { Head, type LabelledRows, labelledRows } from './head.js'
import { type ModelTensors, modelTensors } from './layout.js'
import type { Parameters } from './parameters.js'
import type { RopeCache } from './rope.js'
import { backward, type Context, forward, packedAttention } from './transformer.js'

/** What a batch's labelled rows came to, in their order. */
export interface BatchResult extends LabelledRows {
  losses: Float32Array
  /** 1 where the most likely token is the label. */
  correct: Int32Array
}

export class Backprop implements Disposable {
  /** float32, one a unit in the order of `layout.units`. */
  readonly gradients: Tensor[]
  private readonly dw: ModelTensors
  private readonly memory: ActivationMemory
  private readonly head: Head
  private readonly cuSeqlens: Tensor

  constructor(
    private readonly parameters: Parameters,
    private readonly rope: RopeCache,
    maxTokens: number,
  ) {
    const { device, config, dtype, layout } = parameters
    this.gradients = parameters.allocate('float32')
    this.dw = modelTensors(config, layout, this.gradients)
    this.memory = new ActivationMemory(device, config, dtype, maxTokens, true)
    this.head = new Head(device, config, dtype, maxTokens)
    this.cuSeqlens = device.tensor('int32', [maxTokens + 1])
  }

  zeroGradients(): void {
    for (const gradient of this.gradients) ops.fill(this.stream, { x: gradient, value: 0 })
  }

  /** Forward and backward; adds into the gradients. Enqueued at once, the promise has the losses. */
  accumulate(batch: PackedBatch): Promise<BatchResult> {
    return this.run(batch, true)
  }

  /** The forward pass alone. */
  evaluate(batch: PackedBatch): Promise<BatchResult> {
    return this.run(batch, false)
  }

  private get stream() {
    return this.parameters.device.stream
  }

  private async run(batch: PackedBatch, withGradients: boolean): Promise<BatchResult> {
    const { stream, parameters } = this
    const activations = this.memory.for(batch.inputIds.length)
    const cuSeqlens = this.cuSeqlens.view([batch.cuSeqlens.length])
    const context: Context = { stream, config: parameters.config, weights: parameters.tensors, ...this.rope.tables }
    stream.write(activations.ids, batch.inputIds)
    stream.write(activations.positions, batch.positions)
    stream.write(cuSeqlens, batch.cuSeqlens)
    forward(context, activations, packedAttention(context, cuSeqlens))
    const labelled = labelledRows(batch.labels, batch.weights)
    this.head.loss(context, activations, labelled, withGradients ? this.dw : undefined)
    const results = this.head.results(context, labelled.rows.length)
    if (withGradients) backward(context, activations, cuSeqlens, this.dw)
    return { ...labelled, ...(await results) }
  }

  dispose(): void {
    for (const gradient of this.gradients) gradient.dispose()
    for (const part of [this.memory, this.head, this.cuSeqlens]) part.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
