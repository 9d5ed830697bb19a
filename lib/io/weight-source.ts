/** Bytes of one element of each stored type, under PyTorch's names. */
export const DTYPE_BYTES = {
  float64: 8,
  float32: 4,
  float16: 2,
  bfloat16: 2,
  float8_e4m3fn: 1,
  float8_e5m2: 1,
  int64: 8,
  int32: 4,
  int16: 2,
  int8: 1,
  uint64: 8,
  uint32: 4,
  uint16: 2,
  uint8: 1,
  bool: 1,
} as const

/** The element type of a tensor in a file; more than a device computes in. */
export type WeightDType = keyof typeof DTYPE_BYTES

/** What a weight file says about one of its tensors. */
export interface TensorInfo {
  /** As the file has it. */
  readonly name: string
  /** As it is stored. */
  readonly dtype: WeightDType
  /** Row-major; `[]` is a scalar. */
  readonly shape: readonly number[]
  /** Elements × bytes of an element. */
  readonly bytes: number
  /** Another tensor of the file that is the same view of the same bytes: the two are tied. */
  readonly sameAs?: string
}

/** Named tensors that are read piece by piece, from one file or from many. */
export interface WeightSource {
  /** Every tensor by name, in the order in which their bytes lie on the disk. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /**
   * Fills `into` with the bytes of a tensor that start at `byteOffset` of its contiguous row-major form.
   * `byteOffset` and the length of `into` are whole elements. Reads may run at the same time.
   * @throws RangeError when there is no such tensor, or the piece does not lie within it
   * @throws CheckpointError when the file cannot be read, or has become shorter
   */
  read(name: string, byteOffset: number, into: Uint8Array): Promise<void>
  /** Closes the files; later reads are refused. */
  close(): Promise<void>
}

/** The product of a shape, or undefined when it is not a list of sizes or no exact number can hold it. */
export function countElements(shape: unknown): number | undefined {
  if (!Array.isArray(shape)) return undefined
  let count = 1
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || size < 0) return undefined
    count *= size
    if (!Number.isSafeInteger(count)) return undefined
  }
  return count
}

/** Bytes of a tensor of this shape, or undefined when no exact number can hold them. */
export function tensorBytes(shape: unknown, dtype: WeightDType): number | undefined {
  const count = countElements(shape)
  const bytes = count === undefined ? undefined : count * DTYPE_BYTES[dtype]
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

/** The tensor that a read asks for. @throws RangeError when it is not there or the piece does not lie within it */
export function tensorForRead(
  tensors: ReadonlyMap<string, TensorInfo>,
  name: string,
  byteOffset: number,
  length: number,
): TensorInfo {
  const info = tensors.get(name)
  if (!info) throw new RangeError(`there is no tensor ${name} to read`)
  const size = DTYPE_BYTES[info.dtype]
  if (!(byteOffset >= 0 && byteOffset % size === 0 && length % size === 0 && byteOffset + length <= info.bytes)) {
    throw new RangeError(
      `Bytes ${byteOffset} to ${byteOffset + length} are not whole elements within the ${info.bytes} bytes of ${name}`,
    )
  }
  return info
}
