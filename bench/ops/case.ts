import type { Device, Stream } from '#lib/device.js'
import { randomNormal } from '#lib/ops.js'
import type { DType, HostArray, Tensor } from '#lib/tensor.js'

/** One op at the shapes of configs.ts. */
export interface OpCase {
  /** Its name in core/ops.h, and in python/ops.py. */
  op: string
  /** The minimum bytes to read and write; 0 if arithmetic is the limit. */
  bytes: number
  /** FLOPs of its matrix products. */
  flops: number
  /** Creates the operands, and returns the function that enqueues the op once. */
  prepare(operands: Operands): (stream: Stream) => void
}

export const bytesOf = { bfloat16: 2, float32: 4 }

/** Creates tensors for a case, and disposes of them together. */
export class Operands implements Disposable {
  private readonly tensors: Tensor[] = []

  readonly stream: Stream

  constructor(private readonly device: Device) {
    this.stream = device.stream
  }

  /** Normal values, so that none is 0 or denormal. */
  random(dtype: DType, ...shape: number[]): Tensor {
    const tensor = this.empty(dtype, ...shape)
    randomNormal(this.stream, { x: tensor.view([tensor.length]), std: 1, seed: 0, streamId: this.tensors.length })
    return tensor
  }

  empty(dtype: DType, ...shape: number[]): Tensor {
    const tensor = this.device.tensor(dtype, shape)
    this.tensors.push(tensor)
    return tensor
  }

  of(dtype: DType, data: HostArray, ...shape: number[]): Tensor {
    const tensor = this.empty(dtype, ...shape)
    this.stream.write(tensor, data)
    return tensor
  }

  /** Integers below `limit`. */
  integers(limit: number, ...shape: number[]): Tensor {
    const length = shape.reduce((a, b) => a * b, 1)
    return this.of(
      'int32',
      Int32Array.from({ length }, () => Math.floor(Math.random() * limit)),
      ...shape,
    )
  }

  [Symbol.dispose](): void {
    for (const tensor of this.tensors) tensor.dispose()
  }
}
