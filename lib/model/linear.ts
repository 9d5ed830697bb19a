/**
 * Linear layers: the projections of a model. T tokens, M inputs, N outputs. The transformer depends only on this
 * interface; a layer decides how its weights are stored and which of them are trained.
 */
import type { Stream } from '../device.js'
import * as ops from '../ops.js'
import type { Tensor } from '../tensor.js'

/** y = x · wᵀ: one projection, or several that share an input (q, k, and v; gate and up). */
export interface Linear {
  /** Writes y[T, N] from x[T, M]. */
  forward(stream: Stream, y: Tensor, x: Tensor): void
  /** Writes dx[T, M] from dy[T, N] and accumulates the gradients of the trained weights. x as in `forward`. */
  backward(stream: Stream, dx: Tensor, dy: Tensor, x: Tensor): void
}

/** Flattens a tensor of tokens to a matrix: [T, H, D] becomes [T, H·D]. */
const asMatrix = (tensor: Tensor) => tensor.view([tensor.shape[0], tensor.length / tensor.shape[0]])

/** A weight matrix w[N, M] and, if trained, its float32 gradient dw[N, M]. */
export class DenseLinear implements Linear {
  constructor(
    readonly w: Tensor,
    readonly dw?: Tensor,
  ) {}

  forward(stream: Stream, y: Tensor, x: Tensor): void {
    ops.matmul(stream, { c: asMatrix(y), a: asMatrix(x), b: this.w, transposeB: true })
  }

  backward(stream: Stream, dx: Tensor, dy: Tensor, x: Tensor): void {
    const [a, c] = [asMatrix(dy), asMatrix(dx)]
    if (this.dw) ops.matmul(stream, { c: this.dw, a, b: asMatrix(x), transposeA: true, beta: 1 })
    ops.matmul(stream, { c, a, b: this.w })
  }
}
