import type { GgufTensorType } from '../formats/gguf/gguf-format.js'
import { isRotaryBuffer } from '../formats/names.js'
import { countElements, type WeightDType } from '../io/weight-source.js'
import type { ConfigJson } from '../model/config.js'

/** The recognized kinds of path. */
export type InspectedKind =
  | 'weight file'
  | 'model directory'
  | 'training checkpoint'
  | 'PEFT adapter'
  | 'DeepSpeed checkpoint'
  | 'GGUF file'

/** A tensor as stored. */
export interface InspectedTensor {
  /** As in the file; in a sharded checkpoint, its name in the model. */
  name: string
  /** PyTorch's name, or ggml's in a GGUF file, such as `Q8_0`. */
  dtype: WeightDType | GgufTensorType
  /** Row-major; `[]` is a scalar. */
  shape: readonly number[]
  /** Of its elements. */
  bytes: number
  /** Another tensor that it is tied to. */
  sameAs?: string
}

/** The contents of a file or a directory. */
export interface Inspection {
  /** The file or directory, as given. */
  path: string
  /** Its recognized kind. */
  kind: InspectedKind
  /** The weight files with their bytes on disk. */
  files: { name: string; bytes: number }[]
  /** In file order; for a sharded checkpoint, the assembled tensors. */
  tensors: InspectedTensor[]
  /** Elements of all tensors, excluding tied ones and the buffers of old checkpoints. */
  parameters: number
  /** Elements by type. */
  dtypes: Record<string, number>
  /** Bytes of all tensors, tied ones counted once. */
  bytes: number
  /** config.json, if there is one; for a GGUF file of a LLaMA, its equivalent. */
  config?: ConfigJson
  /** From tokenizer.model or a GGUF file, if present; `model` is llama.cpp's name for its kind. */
  tokenizer?: { file: string; vocabSize: number; model?: string }
  /** A training checkpoint's steps and ranks; for DeepSpeed also its form, such as `ZeRO stage 2` or `universal`. */
  training?: { step?: number; ranks: number; form?: string }
  /** A GGUF file's metadata; lists with more than 16 elements are reported by their length. */
  gguf?: { version: number; architecture: string; metadata: Record<string, unknown> }
  /** The algorithm of the verified checksums; null if the format has none, or they were not requested. */
  checksums: 'SHA-256' | 'CRC-32' | null
  /** Missing, damaged or mismatched parts, one sentence each. */
  problems: string[]
  /** Unusual but harmless facts, one sentence each. */
  notes: string[]
  /** Whether there are no problems. */
  whole: boolean
}

/** The totals over a list of tensors. */
export function totalsOf(tensors: readonly InspectedTensor[]): Pick<Inspection, 'parameters' | 'dtypes' | 'bytes'> {
  const apart = tensors.filter(({ sameAs }) => sameAs === undefined)
  const dtypes: Record<string, number> = {}
  let parameters = 0
  for (const { name, dtype, shape } of apart) {
    if (isRotaryBuffer(name)) continue
    const elements = countElements(shape)!
    dtypes[dtype] = (dtypes[dtype] ?? 0) + elements
    parameters += elements
  }
  return { parameters, dtypes, bytes: apart.reduce((sum, { bytes }) => sum + bytes, 0) }
}
