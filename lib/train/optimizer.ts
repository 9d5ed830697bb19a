import type { Stream } from '../device.js'
import type { Parameters } from '../model/parameters.js'
import * as ops from '../ops.js'
import type { Tensor } from '../tensor.js'
import { HostUpdate } from './host-update.js'

export interface AdamWOptions {
  beta1: number
  beta2: number
  epsilon: number
  weightDecay: number
}

/**
 * AdamW over a model's flat buffers, with float32 moments and masters; one op per unit and step. It runs on the device
 * of the masters: the model's device or the CPU.
 */
export class AdamW implements Disposable {
  /** First and second moments, one buffer per unit. */
  readonly m: Tensor[]
  readonly v: Tensor[]
  private readonly squares: Tensor
  private readonly host?: HostUpdate
  /** Steps done. */
  steps = 0

  constructor(
    private readonly parameters: Parameters,
    private readonly options: AdamWOptions,
  ) {
    this.m = parameters.allocate('float32', parameters.masterDevice)
    this.v = parameters.allocate('float32', parameters.masterDevice)
    if (parameters.mastersOnHost) this.host = new HostUpdate(parameters)
    this.squares = parameters.device.tensor('float32', [this.m.length])
  }

  /** The sum of squares of the gradients that this rank owns. */
  async squaredNorm(gradients: Tensor[]): Promise<number> {
    const { stream } = this.parameters.device
    gradients.forEach((x, i) => {
      ops.globalNorm(stream, { out: this.squares.rows(i, i + 1), x })
    })
    const squares = (await this.squares.toArray(stream)) as Float32Array
    return squares.reduce((sum, value) => sum + value, 0)
  }

  /** Updates the masters and the weights once; multiplies the gradients by `gradScale` first. */
  async step(gradients: Tensor[], lr: number, gradScale: number): Promise<void> {
    const { device, buffers, masters, dtype } = this.parameters
    const { beta1, beta2, epsilon: eps, weightDecay } = this.options
    this.steps++
    const update = (stream: Stream, unit: number, grad: Tensor, weights: Tensor | undefined) => {
      const [master, m, v] = [masters[unit], this.m[unit], this.v[unit]]
      const rates = { lr, beta1, beta2, eps, weightDecay, gradScale, step: this.steps }
      ops.adamw(stream, { weights, master, m, v, grad, ...rates })
    }
    if (this.host) await this.host.run(gradients, update)
    else {
      for (const [unit, grad] of gradients.entries()) {
        update(device.stream, unit, grad, dtype === 'float32' ? undefined : buffers[unit])
      }
    }
    this.parameters.weights.invalidate()
  }

  dispose(): void {
    this.host?.dispose()
    for (const tensor of [...this.m, ...this.v, this.squares]) tensor.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** The factor that scales gradients to a norm of at most `maxNorm` (as torch.nn.utils.clip_grad_norm_). */
export function clipScale(norm: number, maxNorm: number): number {
  return maxNorm > 0 ? Math.min(1, maxNorm / (norm + 1e-6)) : 1
}
