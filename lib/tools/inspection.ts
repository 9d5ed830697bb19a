import type { GgufTensorType } from '../formats/gguf/gguf-format.js'
import { isRotaryBuffer } from '../formats/names.js'
import { countElements, type WeightDType } from '../io/weight-source.js'
import type { ConfigJson } from '../model/config.js'

/** What `inspect` takes a path for. */
export type InspectedKind =
  | 'weight file'
  | 'model directory'
  | 'training checkpoint'
  | 'PEFT adapter'
  | 'DeepSpeed checkpoint'
  | 'GGUF file'

/** A tensor as it is stored. */
export interface InspectedTensor {
  /** As in the file, or of a sharded checkpoint its name in the model. */
  name: string
  /** Under PyTorch's name, or in a GGUF file under ggml's, such as `Q8_0`. */
  dtype: WeightDType | GgufTensorType
  /** Row-major; `[]` is a scalar. */
  shape: readonly number[]
  /** Of its elements. */
  bytes: number
  /** Another tensor that it is tied to. */
  sameAs?: string
}

/** What a file or a directory holds. */
export interface Inspection {
  /** The file or directory, as it was given. */
  path: string
  /** What it was taken for. */
  kind: InspectedKind
  /** The weight files with their bytes on the disk. */
  files: { name: string; bytes: number }[]
  /** In the order of the files; a sharded checkpoint's as they are when they are put together. */
  tensors: InspectedTensor[]
  /** Elements of all tensors, tied ones and the buffers of old checkpoints not counted. */
  parameters: number
  /** Elements by type. */
  dtypes: Record<string, number>
  /** Bytes of all tensors, tied ones counted once. */
  bytes: number
  /** config.json, where there is one; what a GGUF file of a LLaMA says in its place. */
  config?: ConfigJson
  /** Of tokenizer.model or of a GGUF file, where there is one; `model` is llama.cpp's name for its kind. */
  tokenizer?: { file: string; vocabSize: number; model?: string }
  /** A training checkpoint's steps and ranks; of one of DeepSpeed's also its form, such as `ZeRO stage 2` or `universal`. */
  training?: { step?: number; ranks: number; form?: string }
  /** What a GGUF file says of itself; of lists with more than 16 elements only how many they have. */
  gguf?: { version: number; architecture: string; metadata: Record<string, unknown> }
  /** What the check of checksums was made with; null where the form has none, or they were not asked for. */
  checksums: 'SHA-256' | 'CRC-32' | null
  /** Whatever is missing, damaged or does not fit, one sentence each. */
  problems: string[]
  /** What is unusual and does no harm, one sentence each. */
  notes: string[]
  /** Whether there is no problem. */
  whole: boolean
}

/** The sums over a list of tensors. */
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
