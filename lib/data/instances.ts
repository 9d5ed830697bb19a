import { setImmediate } from 'node:timers/promises'
import { DataError } from '../errors.js'
import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import type { Instruction } from './instructions.js'
import { encodePrompt } from './prompt.js'

/** The label of a token that is not learned. */
export const IGNORE_INDEX = -100

/** Token ids with a label for each, aligned as in Transformers: `labels[t]` is predicted from tokens < t. */
export interface LabelledSequence {
  inputIds: Int32Array
  labels: Int32Array
}

/** One training instance. */
export interface Instance extends LabelledSequence {
  /** Index of its row in the data set, from zero. */
  id: number
  /** Whether its answer was cut at `maxLength`, so that it lacks the end token. */
  isCut?: boolean
}

export interface Instances {
  instances: Instance[]
  /** Rows dropped because their prompt fills `maxLength` and leaves nothing to learn. */
  dropped: number
  /** Rows kept whose answer was cut at `maxLength`: they lack the end token, which teaches a model to stop. */
  truncated: number
}

/** The number of a sequence's labels that are learned; the first token is never predicted. */
export function countLabels({ labels }: LabelledSequence): number {
  let count = 0
  for (let t = 1; t < labels.length; t++) if (labels[t] >= 0) count++
  return count
}

/**
 * OpenAlpaca's instance: `[BOS] + prompt + output + [EOS]`, prompt and output encoded separately, cut to `maxLength`,
 * with the prompt's labels ignored (sft_dataset.py).
 */
export function buildInstance(
  instruction: Instruction,
  id: number,
  tokenizer: LlamaTokenizer,
  maxLength: number,
): Instance {
  const prompt = encodePrompt(tokenizer, instruction)
  const output = tokenizer.encode(instruction.output, { addSpecialTokens: false })
  const all = [...prompt, ...output, tokenizer.eosTokenId]
  const ids = all.slice(0, maxLength)
  const labels = Int32Array.from(ids).fill(IGNORE_INDEX, 1, prompt.length)
  return { id, inputIds: Int32Array.from(ids), labels, ...(all.length > maxLength && { isCut: true }) }
}

/**
 * Tokenizes a data set, yielding to the event loop every few milliseconds.
 * @param maxLength in tokens, at least 2
 * @throws {DataError} for a data set in which no row has anything to learn within `maxLength`
 */
export async function buildInstances(
  instructions: readonly Instruction[],
  tokenizer: LlamaTokenizer,
  maxLength: number,
  { onProgress }: { onProgress?: (done: number, total: number) => void } = {},
): Promise<Instances> {
  if (!Number.isInteger(maxLength) || maxLength < 2) {
    throw new RangeError(`maxLength must be an integer of at least 2, got ${maxLength}`)
  }
  const result: Instances = { instances: [], dropped: 0, truncated: 0 }
  let pausedAt = performance.now()
  for (const [id, instruction] of instructions.entries()) {
    const instance = buildInstance(instruction, id, tokenizer, maxLength)
    if (countLabels(instance) === 0) result.dropped++
    else {
      result.instances.push(instance)
      if (instance.isCut) result.truncated++
    }
    if (performance.now() - pausedAt > 5) {
      onProgress?.(id + 1, instructions.length)
      await setImmediate()
      pausedAt = performance.now()
    }
  }
  onProgress?.(instructions.length, instructions.length)
  if (result.instances.length === 0) {
    throw new DataError(
      `none of the ${instructions.length} instructions leaves room for an answer in ${maxLength} tokens: raise max_length`,
    )
  }
  return result
}
