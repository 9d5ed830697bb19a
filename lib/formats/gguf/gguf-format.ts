/**
 * The GGUF file format, version 3, as llama.cpp reads it (github.com/ggml-org/ggml, docs/gguf.md): magic, counts,
 * key-value pairs, tensor entries, and the tensors' bytes, each aligned to `general.alignment`. Little-endian.
 */

export const GGUF_MAGIC = 0x46554747 // "GGUF"
export const GGUF_VERSION = 3
export const DEFAULT_ALIGNMENT = 32

/** The format's numbers for the types of metadata values. */
export const VALUE_TYPES = {
  uint8: 0,
  int8: 1,
  uint16: 2,
  int16: 3,
  uint32: 4,
  int32: 5,
  float32: 6,
  bool: 7,
  string: 8,
  array: 9,
  uint64: 10,
  int64: 11,
  float64: 12,
} as const

export type ValueType = keyof typeof VALUE_TYPES

/** How a type is stored: ggml's number for it, elements per block, and bytes per block. */
interface TensorType {
  readonly id: number
  readonly block: number
  readonly bytes: number
}

const type = (id: number, block: number, bytes: number): TensorType => ({ id, block, bytes })

/** ggml's tensor types, under ggml's names. Only the first four can be written; the others can be listed. */
export const TENSOR_TYPES = {
  F32: type(0, 1, 4),
  F16: type(1, 1, 2),
  BF16: type(30, 1, 2),
  Q8_0: type(8, 32, 34),
  Q4_0: type(2, 32, 18),
  Q4_1: type(3, 32, 20),
  Q5_0: type(6, 32, 22),
  Q5_1: type(7, 32, 24),
  Q8_1: type(9, 32, 40),
  Q2_K: type(10, 256, 84),
  Q3_K: type(11, 256, 110),
  Q4_K: type(12, 256, 144),
  Q5_K: type(13, 256, 176),
  Q6_K: type(14, 256, 210),
  Q8_K: type(15, 256, 292),
  IQ2_XXS: type(16, 256, 66),
  IQ2_XS: type(17, 256, 74),
  IQ3_XXS: type(18, 256, 98),
  IQ1_S: type(19, 256, 50),
  IQ4_NL: type(20, 32, 18),
  IQ3_S: type(21, 256, 110),
  IQ2_S: type(22, 256, 82),
  IQ4_XS: type(23, 256, 136),
  I8: type(24, 1, 1),
  I16: type(25, 1, 2),
  I32: type(26, 1, 4),
  I64: type(27, 1, 8),
  F64: type(28, 1, 8),
  IQ1_M: type(29, 256, 56),
  TQ1_0: type(34, 256, 54),
  TQ2_0: type(35, 256, 66),
  MXFP4: type(39, 32, 17),
} as const satisfies Record<string, TensorType>

export type GgufTensorType = keyof typeof TENSOR_TYPES

/**
 * Bytes of a tensor; undefined beyond exact integers, or for rows that are not complete blocks.
 * @param shape row-major, so the last size is the length of a row
 */
export function ggufTensorBytes(shape: readonly number[], name: GgufTensorType): number | undefined {
  const { block, bytes } = TENSOR_TYPES[name]
  const row = shape.at(-1) ?? 1
  if (row % block !== 0) return undefined
  let total = bytes
  for (const [i, size] of shape.entries()) total *= i === shape.length - 1 ? size / block : size
  return Number.isSafeInteger(total) ? total : undefined
}

/** The next multiple of `alignment`. */
export function align(position: number, alignment: number): number {
  return Math.ceil(position / alignment) * alignment
}
