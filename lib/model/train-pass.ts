/**
 * Loss and gradients of packed batches. Gradients are float32 sums, one flat buffer per unit, and accumulate over
 * successive batches. In a group of ranks, each rank sums all ranks' gradients for the parameters that it owns.
 */
import type { PackedBatch } from '../data/packing.js'
import { ShardedGradients, type UnitBytes } from '../parallel/sharded.js'
import type { Tensor } from '../tensor.js'
import { type BatchResult, ForwardPass } from './forward-pass.js'
import { labeledRows } from './lm-head.js'
import type { Parameters } from './parameters.js'
import type { RopeCache } from './rope.js'
import { backward } from './transformer.js'

export class TrainPass implements Disposable {
  private readonly sums: ShardedGradients
  private readonly forward: ForwardPass

  constructor(
    readonly parameters: Parameters,
    rope: RopeCache,
    maxTokens: number,
  ) {
    const { device, layout, group } = parameters
    this.sums = new ShardedGradients(device, layout, group)
    this.forward = new ForwardPass(parameters, rope, { maxTokens, gradients: this.sums.buffers })
  }

  /** The gradients that this rank owns: float32, one buffer per unit, in the order of `layout.units`. */
  get gradients(): Tensor[] {
    return this.sums.sums
  }

  get gradientBytes(): UnitBytes {
    return this.sums.bytes
  }

  get workingBytes(): ForwardPass['workingBytes'] {
    return this.forward.workingBytes
  }

  zeroGradients(): void {
    this.sums.zero()
  }

  /**
   * Runs forward and backward and accumulates the gradients. Enqueues at once; the promise resolves with the losses.
   * @param isLast completes the gradients, summed over all ranks; every rank makes the same number of calls
   */
  async forwardBackward(batch: PackedBatch, isLast = true): Promise<BatchResult> {
    const { forward, sums, parameters } = this
    const { context, head } = forward
    const unit = parameters.layout.head.index
    sums.startBatch(isLast)
    const { activations, cuSeqlens } = forward.run(batch)
    const labeled = labeledRows(batch.labels, batch.weights)
    forward.withHead(-1, () => {
      sums.begin(unit)
      head.loss(context, activations, labeled, true)
      sums.end(unit)
    })
    const results = head.results(context, labeled.rows.length)
    backward(context, activations, cuSeqlens, sums)
    sums.finish()
    return { ...labeled, ...(await results) }
  }

  /** The losses, without gradients. */
  evaluate(batch: PackedBatch): Promise<BatchResult> {
    return this.forward.score(batch)
  }

  dispose(): void {
    this.sums.dispose()
    this.forward.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
