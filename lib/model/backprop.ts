/**
 * Loss and gradients of packed batches. Gradients are float32 sums, one flat buffer a unit, which successive batches
 * add into: that is gradient accumulation. Of a group of ranks, each sums up all ranks' gradients of what it owns.
 */
import type { PackedBatch } from '../data/packing.js'
import { ShardedGradients, type UnitBytes } from '../parallel/sharded.js'
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
  private readonly sums: ShardedGradients
  private readonly dw: ModelTensors
  private readonly memory: ActivationMemory
  private readonly head: Head
  private readonly cuSeqlens: Tensor

  constructor(
    readonly parameters: Parameters,
    private readonly rope: RopeCache,
    maxTokens: number,
  ) {
    const { device, config, dtype, layout, group } = parameters
    this.sums = new ShardedGradients(device, layout, group)
    this.dw = modelTensors(config, layout, this.sums.buffers)
    this.memory = new ActivationMemory(device, config, dtype, maxTokens, true)
    this.head = new Head(device, config, dtype, maxTokens)
    this.cuSeqlens = device.tensor('int32', [maxTokens + 1])
  }

  /** float32, one a unit in the order of `layout.units`: what this rank owns. */
  get gradients(): Tensor[] {
    return this.sums.sums
  }

  get gradientBytes(): UnitBytes {
    return this.sums.bytes
  }

  /** Bytes of working memory: of the passes through the blocks, and of the head with its chunk of logits. */
  get workingBytes(): { activations: number; logits: number } {
    return { activations: this.memory.bytes, logits: this.head.bytes }
  }

  zeroGradients(): void {
    this.sums.zero()
  }

  /**
   * Forward and backward; adds into the gradients. Enqueued at once, the promise has the losses.
   * @param isLast after it the gradients are those of all ranks; ranks make as many calls
   */
  accumulate(batch: PackedBatch, isLast = true): Promise<BatchResult> {
    this.sums.startBatch(isLast)
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
    const context: Context = {
      stream,
      config: parameters.config,
      weights: parameters.tensors,
      units: parameters.weights,
      ...this.rope.tables,
    }
    stream.write(activations.ids, batch.inputIds)
    stream.write(activations.positions, batch.positions)
    stream.write(cuSeqlens, batch.cuSeqlens)
    forward(context, activations, packedAttention(context, cuSeqlens))
    const labelled = labelledRows(batch.labels, batch.weights)
    const head = parameters.layout.units.length - 1
    parameters.weights.get(head, -1)
    if (withGradients) this.sums.begin(head)
    this.head.loss(context, activations, labelled, withGradients ? this.dw : undefined)
    if (withGradients) this.sums.end(head)
    parameters.weights.release(head)
    const results = this.head.results(context, labelled.rows.length)
    if (withGradients) {
      backward(context, activations, cuSeqlens, this.dw, this.sums)
      this.sums.finish()
    }
    return { ...labelled, ...(await results) }
  }

  dispose(): void {
    for (const part of [this.sums, this.memory, this.head, this.cuSeqlens]) part.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
