import type { Device, Stream } from './device.js'
import { type DType, type HostArray, native, type TensorHandle } from './native.js'

const bytesPer: Record<DType, number> = { float32: 4, bfloat16: 2, float16: 2, int32: 4 }

/** The number of bytes of one element. */
export function bytesPerElement(dtype: DType): number {
  return bytesPer[dtype]
}

/** The number of elements of a shape. */
export function numel(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1)
}

/**
 * A typed, contiguous, row-major view of device memory. The tensor made by `Device.tensor` owns the memory: disposing
 * of it invalidates all its views. A finalizer frees tensors that were not disposed of.
 */
export class Tensor implements Disposable {
  /** @internal */
  constructor(
    /** The device of the memory. */
    readonly device: Device,
    /** The number format. */
    readonly dtype: DType,
    /** Row-major; `[]` is a single number. */
    readonly shape: readonly number[],
    /** @internal */
    readonly handle: TensorHandle,
    /** The source of a view, kept from garbage collection, which would free the memory while the view is in use. */
    protected readonly source?: Tensor,
  ) {}

  /** The number of elements. */
  get length(): number {
    return numel(this.shape)
  }

  /** The number of bytes. */
  get byteLength(): number {
    return this.length * bytesPerElement(this.dtype)
  }

  /**
   * The same memory from element `offset` on, with another shape and, for memory that is reused, another dtype.
   * @throws {RangeError} for a view outside the tensor
   */
  view(shape: readonly number[], offset = 0, dtype: DType = this.dtype): Tensor {
    const handle = native.tensorView(this.handle, offset * bytesPerElement(this.dtype), dtype, shape)
    return new Tensor(this.device, dtype, shape, handle, this)
  }

  /** Rows `start` to `end` (exclusive) of the first dimension. */
  rows(start: number, end: number): Tensor {
    const width = numel(this.shape.slice(1))
    return this.view([end - start, ...this.shape.slice(1)], start * width)
  }

  /** The raw elements; bfloat16 and float16 as their bits in a Uint16Array. Resolves after the work queued before. */
  async toArray(stream: Stream = this.device.stream): Promise<Float32Array | Int32Array | Uint16Array> {
    const array = this.hostArray()
    await stream.read(this, array)
    return array
  }

  private hostArray(): Float32Array | Int32Array | Uint16Array {
    if (this.dtype === 'float32') return new Float32Array(this.length)
    return this.dtype === 'int32' ? new Int32Array(this.length) : new Uint16Array(this.length)
  }

  /** Frees the memory, if this tensor owns it, as soon as no queued work needs it. */
  dispose(): void {
    native.tensorDispose(this.handle)
  }

  /** `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose()
  }
}

export type { DType, HostArray }
