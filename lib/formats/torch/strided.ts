import { DTYPE_BYTES } from '../../io/weight-source.js'
import type { TorchTensor } from './torch-objects.js'

/** Whether the elements are contiguous in row-major order, so that they can be read directly. */
export function isContiguous({ shape, strides }: TorchTensor): boolean {
  if (shape.includes(0)) return true
  let expected = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false
    expected *= shape[i]!
  }
  return true
}

/** The bytes of its storage from a tensor's first element to the end of its last one. */
export function spanOf({ shape, strides, offset, dtype }: TorchTensor): { start: number; length: number } {
  const size = DTYPE_BYTES[dtype]
  const reach = shape.reduce((sum, extent, i) => sum + (extent - 1) * strides[i]!, 0)
  return { start: offset * size, length: (reach + 1) * size }
}

/**
 * Copies elements out of a strided tensor.
 * @param span the bytes that `spanOf` describes
 * @param first the first element to copy, in row-major order
 * @param into receives complete elements in row-major order
 */
export function gather(tensor: TorchTensor, span: Uint8Array, first: number, into: Uint8Array): void {
  const { shape, strides } = tensor
  const size = DTYPE_BYTES[tensor.dtype]
  const last = shape.length - 1 // a strided tensor has a dimension, because a scalar is contiguous
  const index = new Array<number>(shape.length)
  for (let i = last, rest = first; i >= 0; i--) {
    index[i] = rest % shape[i]!
    rest = Math.floor(rest / shape[i]!)
  }
  const step = strides[last]! * size
  for (let to = 0; to < into.length; ) {
    let from = size * index.reduce((sum, at, i) => sum + at * strides[i]!, 0)
    const row = Math.min(shape[last]! - index[last]!, (into.length - to) / size)
    for (const end = to + row * size; to < end; from += step) {
      for (let byte = 0; byte < size; byte++) into[to++] = span[from + byte]!
    }
    index[last] = shape[last]!
    for (let i = last; i > 0 && index[i] === shape[i]; i--) {
      index[i] = 0
      index[i - 1]!++
    }
  }
}
