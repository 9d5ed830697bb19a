/** Tensors from numbers, and numbers from tensors. */
import type { Device } from '../../lib/device.js'
import type { DType, Tensor } from '../../lib/tensor.js'
import { numel } from '../../lib/tensor.js'
import { decode, encode } from './numbers.js'

/** A tensor with the given values, rounded to its dtype; written on the device's default stream. */
export function tensorOf(
  device: Device,
  dtype: Exclude<DType, 'float16'>,
  shape: readonly number[],
  values: ArrayLike<number> | number,
): Tensor {
  const tensor = device.tensor(dtype, shape)
  const list = typeof values === 'number' ? new Float64Array(numel(shape)).fill(values) : values
  device.stream.write(tensor, encode(dtype, list))
  return tensor
}

/** The owner of a view, kept alive because the memory is freed with the owner. */
const owners = new WeakMap<Tensor, Tensor>()

/** The same as a view that begins `offset` elements into its memory, so that its address is poorly aligned. */
export function viewOf(
  device: Device,
  dtype: Exclude<DType, 'float16'>,
  shape: readonly number[],
  values: ArrayLike<number>,
  offset: number,
): Tensor {
  const owner = device.tensor(dtype, [numel(shape) + offset])
  const view = owner.view(shape, offset)
  owners.set(view, owner)
  device.stream.write(view, encode(dtype, values))
  return view
}

/**
 * A tensor for results, filled with NaN or −1: elements that an op does not write show, and elements that it must not
 * read show too.
 */
export function resultOf(device: Device, dtype: Exclude<DType, 'float16'>, shape: readonly number[]): Tensor {
  return tensorOf(device, dtype, shape, dtype === 'int32' ? -1 : Number.NaN)
}

/** The numbers in a tensor, once the work queued before is done. */
export async function valuesOf(tensor: Tensor): Promise<Float64Array> {
  return decode(tensor.dtype, await tensor.toArray())
}
