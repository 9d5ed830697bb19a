/** Runs packed batches through a model, without gradients. */
import type { PackedBatch } from '../data/packing.js'
import type { Tensor } from '../tensor.js'
import { ActivationMemory, type Activations } from './activations.js'
import { type Layers, layersOf } from './layers.js'
import { type LabeledRows, LmHead, labeledRows } from './lm-head.js'
import type { Parameters } from './parameters.js'
import type { RopeCache } from './rope.js'
import { type Attend, type Context, forward, packedAttention } from './transformer.js'

/** Scores of a batch's labeled rows, in row order. */
export interface BatchResult extends LabeledRows {
  /** −log p of the label. */
  losses: Float32Array
  /** 1 if the most likely token is the label. */
  correct: Int32Array
}

export interface ForwardPassOptions {
  /** The number of tokens in the largest batch. */
  maxTokens: number
  /** The maximum number of rows whose logits are computed at once; defaults to all rows of a batch. */
  maxRows?: number
  /**
   * float32 buffers with the parameters' layout, for a pass with gradients; the pass then keeps every block's
   * activations.
   */
  gradients?: Tensor[]
}

export class ForwardPass implements Disposable {
  readonly head: LmHead
  private readonly layers: Layers
  private readonly memory: ActivationMemory
  private readonly cuSeqlens: Tensor

  constructor(
    readonly parameters: Parameters,
    private readonly rope: RopeCache,
    { maxTokens, maxRows = maxTokens, gradients }: ForwardPassOptions,
  ) {
    const { device, config, dtype, layout, weights } = parameters
    this.layers = gradients ? layersOf(config, layout, weights.buffers, gradients) : parameters.layers
    this.memory = new ActivationMemory(device, config, dtype, maxTokens, gradients !== undefined)
    this.head = new LmHead(device, config, dtype, maxRows)
    this.cuSeqlens = device.tensor('int32', [maxTokens + 1])
  }

  /** Bytes of working memory for the blocks, and for the LM head with its chunk of logits. */
  get workingBytes(): { activations: number; logits: number } {
    return { activations: this.memory.bytes, logits: this.head.bytes }
  }

  get context(): Context {
    const { device, config, layout, weights } = this.parameters
    return { stream: device.stream, config, layout, layers: this.layers, units: weights, ...this.rope.tables }
  }

  /**
   * Uploads a batch and runs the blocks.
   * @param attend computes attention; defaults to attention within the packed sequences
   */
  run(
    batch: Pick<PackedBatch, 'inputIds' | 'positions' | 'cuSeqlens'>,
    attend?: (packed: Attend, activations: Activations) => Attend,
  ): { activations: Activations; cuSeqlens: Tensor } {
    const { context } = this
    const { stream } = context
    const activations = this.memory.for(batch.inputIds.length)
    const cuSeqlens = this.cuSeqlens.view([batch.cuSeqlens.length])
    stream.write(activations.ids, batch.inputIds)
    stream.write(activations.positions, batch.positions)
    stream.write(cuSeqlens, batch.cuSeqlens)
    const packed = packedAttention(context, cuSeqlens)
    forward(context, activations, attend ? attend(packed, activations) : packed)
    return { activations, cuSeqlens }
  }

  /** Calls `enqueue` with the weights of the head gathered, to enqueue ops that use them. */
  withHead(direction: 1 | -1, enqueue: () => void): void {
    const { layout, weights } = this.parameters
    weights.get(layout.head.index, direction)
    try {
      enqueue()
    } finally {
      weights.release(layout.head.index)
    }
  }

  /** Losses of a batch's labeled rows. Enqueues at once; the promise resolves when the results have been read. */
  async score(batch: PackedBatch): Promise<BatchResult> {
    const { activations } = this.run(batch)
    const labeled = labeledRows(batch.labels, batch.weights)
    this.withHead(1, () => this.head.loss(this.context, activations, labeled, false))
    return { ...labeled, ...(await this.head.results(this.context, labeled.rows.length)) }
  }

  dispose(): void {
    for (const part of [this.memory, this.head, this.cuSeqlens]) part.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
