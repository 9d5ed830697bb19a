import type { WeightSource } from '../io/weight-source.js'
import { type CastDType, castBytes, isCastable } from './cast.js'

export const EMBEDDING = 'model.embed_tokens.weight'
export const OUTPUT = 'lm_head.weight'
/** Per tensor and read; a multiple of every element size. */
const CHUNK_BYTES = 1 << 22

/** Whether weights have an output projection that differs from the embedding. Stops at the first difference. */
export async function hasOwnOutput(source: WeightSource): Promise<boolean> {
  const embedding = source.tensors.get(EMBEDDING)
  const output = source.tensors.get(OUTPUT)
  if (!embedding || !output || output.sameAs === EMBEDDING || embedding.sameAs === OUTPUT) return false
  if (embedding.shape.join() !== output.shape.join()) return true
  const elements = embedding.shape.reduce((product, size) => product * size, 1)
  const size = { embedding: embedding.bytes / elements, output: output.bytes / elements }
  const perChunk = CHUNK_BYTES / 8
  for (let at = 0; at < elements; at += perChunk) {
    const count = Math.min(perChunk, elements - at)
    const a = new Uint8Array(count * size.embedding)
    const b = new Uint8Array(count * size.output)
    await Promise.all([source.read(EMBEDDING, at * size.embedding, a), source.read(OUTPUT, at * size.output, b)])
    const alike = embedding.dtype === output.dtype && Buffer.compare(a, b) === 0
    if (!alike && !(isCastable(embedding.dtype) && isCastable(output.dtype))) return true
    if (!alike && differ(a, embedding.dtype as CastDType, b, output.dtype as CastDType)) return true
  }
  return false
}

/** Compares as numbers: −0 equals 0. */
function differ(a: Uint8Array, dtypeA: CastDType, b: Uint8Array, dtypeB: CastDType): boolean {
  const floats = (bytes: Uint8Array, dtype: CastDType) => {
    const cast = castBytes(bytes, dtype, 'float32')
    return new Float32Array(cast.buffer, cast.byteOffset, cast.byteLength / 4)
  }
  const [x, y] = [floats(a, dtypeA), floats(b, dtypeB)]
  return x.some((value, i) => value !== y[i])
}

/** The warning about such weights. */
export const ownOutputWarning = (where: string): string =>
  `${where}: config.json ties lm_head.weight to the embedding, but the weights hold another lm_head.weight: ` +
  'the two are kept apart, as Transformers 5 does; set "tie_word_embeddings" to false'
