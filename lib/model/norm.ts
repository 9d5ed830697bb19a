import type { Stream } from '../device.js'
import * as ops from '../ops.js'
import type { Tensor } from '../tensor.js'

/** RMSNorm: y = x · rsqrt(mean(x²) + ε) · w, over rows of C values. The backward pass needs `rstd` [T]. */
export class RmsNorm {
  /**
   * @param w [C]
   * @param dw [C], the float32 gradient of w, if trained
   */
  constructor(
    readonly eps: number,
    readonly w: Tensor,
    readonly dw?: Tensor,
  ) {}

  /** Writes y[T, C] and rstd[T] from x[T, C]. */
  forward(stream: Stream, args: { y: Tensor; rstd: Tensor; x: Tensor }): void {
    ops.rmsNormForward(stream, { ...args, w: this.w, eps: this.eps })
  }

  /** Writes sum = x + delta and normalizes it: y[T, C] and rstd[T]. */
  addForward(stream: Stream, args: { y: Tensor; rstd: Tensor; sum: Tensor; x: Tensor; delta: Tensor }): void {
    ops.addRmsNormForward(stream, { ...args, w: this.w, eps: this.eps })
  }

  /** Accumulates dx[T, C] and dw[C] from dy[T, C]; x and rstd as in `forward`. */
  backward(stream: Stream, args: { dx: Tensor; dy: Tensor; x: Tensor; rstd: Tensor }): void {
    if (!this.dw) throw new Error('the norm has no gradient to add into')
    ops.rmsNormBackward(stream, { ...args, dw: this.dw, w: this.w })
  }
}
