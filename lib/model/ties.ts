import { renamedSource } from '../formats/names.js'
import { EMBEDDING, hasOwnOutput, OUTPUT, ownOutputWarning } from '../formats/ties.js'
import type { WeightSource } from '../io/weight-source.js'
import { emitWarning, type OnWarning } from '../warnings.js'
import type { LlamaConfig } from './config.js'

/**
 * Resolves a config that ties the output projection to the embedding against the weights in the files, as Transformers
 * 5 does: an output projection with different values unties the two, and one without an embedding serves as the
 * embedding.
 */
export async function resolveTies(
  config: LlamaConfig,
  weights: WeightSource,
  where: string,
  onWarning: OnWarning = emitWarning,
): Promise<{ config: LlamaConfig; weights: WeightSource }> {
  const { tensors } = weights
  if (!config.tieWordEmbeddings || !tensors.has(OUTPUT)) return { config, weights }
  if (!tensors.has(EMBEDDING)) {
    const names = [...tensors.keys()].map((name): [string, string] => [name, name === OUTPUT ? EMBEDDING : name])
    return { config, weights: renamedSource(weights, new Map(names)) }
  }
  if (!(await hasOwnOutput(weights))) return { config, weights }
  onWarning(ownOutputWarning(where))
  return {
    config: { ...config, tieWordEmbeddings: false, json: { ...config.json, tie_word_embeddings: false } },
    weights,
  }
}
