/** Bytes per element of each stored type, under PyTorch's names. */
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

/** The element type of a tensor in a file; includes types that no device computes in. */
export type WeightDType = keyof typeof DTYPE_BYTES

/** A weight file's description of one of its tensors. */
export interface TensorInfo {
  /** As in the file. */
  readonly name: string
  /** As stored. */
  readonly dtype: WeightDType
  /** Row-major; `[]` is a scalar. */
  readonly shape: readonly number[]
  /** Elements × bytes per element. */
  readonly bytes: number
  /** Another tensor of the file that is the same view of the same bytes: the two are tied. */
  readonly sameAs?: string
}

/** Named tensors that are read piece by piece, from one file or several. */
export interface WeightSource {
  /** Every tensor by name, in disk order. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /**
   * Fills `into` with the bytes of a tensor from `byteOffset` of its contiguous row-major form. `byteOffset` and the
   * length of `into` are multiples of the element size. Reads may run concurrently.
   * @throws {RangeError} for an unknown tensor, or a piece outside it
   * @throws {CheckpointError} for a file that cannot be read, or has become shorter
   */
  read(name: string, byteOffset: number, into: Uint8Array): Promise<void>
  /** Closes the files; later reads fail. */
  close(): Promise<void>
}

/** The product of a shape; undefined for an invalid shape or beyond exact integers. */
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

/** Bytes of a tensor of this shape; undefined for an invalid shape or beyond exact integers. */
export function tensorBytes(shape: unknown, dtype: WeightDType): number | undefined {
  const count = countElements(shape)
  const bytes = count === undefined ? undefined : count * DTYPE_BYTES[dtype]
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

/**
 * The tensor for a read.
 * @throws {RangeError} for an unknown tensor, or a piece outside it
 */
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
