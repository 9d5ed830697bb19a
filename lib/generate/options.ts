import { OpenAlpacaError } from '../errors.js'
import type { LlamaConfig } from '../model/config.js'
import { StopStrings } from './stop-strings.js'

/** How to generate, under Transformers' names. */
export interface GenerateOptions {
  /** The most new tokens; 128 when left out, or what the model's context has room for. */
  maxNewTokens?: number
  /** Draw from the distribution (true), or take the most likely token (false, the default). */
  doSample?: boolean
  /** Divides the logits before the draw; 1 when left out. */
  temperature?: number
  /** Draw from the k most likely tokens; 50 when left out, 0 for all. */
  topK?: number
  /** Draw from the smallest set of tokens whose probability reaches p; 1 (all) when left out. */
  topP?: number
  /** Divides the positive logits of tokens seen before, and multiplies the negative ones; 1 (none) when left out. */
  repetitionPenalty?: number
  /** The same seed gives the same text; a random one when left out. */
  seed?: number
  /** What ends a sequence: the config's when left out, null to go on past it. */
  eosTokenId?: number | number[] | null
  /** A sequence ends with the token that completes one of these; needs `tokenizer`. */
  stopStrings?: string | readonly string[]
  /** Turns ids into the text that `stopStrings` are looked for in. */
  tokenizer?: { createDecodeStream(): { push(id: number): string } }
  /** Stops at the next token. */
  signal?: AbortSignal
}

/** Options with every value filled in and checked. */
export interface Sampling {
  maxNewTokens: number
  temperature: number
  topK: number
  topP: number
  repetitionPenalty: number
  seed: number
  eosTokenIds: Set<number>
  /** Makes what looks at one sequence's new ids, and says when a stop string is complete. */
  stopWatch: () => (id: number) => boolean
}

function check(ok: boolean, name: string, expected: string, value: unknown): void {
  if (!ok) throw new RangeError(`generate: ${name} must be ${expected}, got ${value}`)
}

/**
 * @param room positions that the longest prompt leaves of the context
 * @throws {RangeError} for a value out of its range
 */
export function resolveOptions(options: GenerateOptions, eosTokenIds: number[], room: number): Sampling {
  const { doSample = false, temperature = 1, topK = 50, topP = 1, repetitionPenalty = 1 } = options
  const { maxNewTokens = Math.min(128, Math.max(1, room)) } = options
  const { seed = Math.floor(Math.random() * 2 ** 31), eosTokenId = eosTokenIds } = options
  check(Number.isInteger(maxNewTokens) && maxNewTokens > 0, 'maxNewTokens', 'a positive integer', maxNewTokens)
  check(
    temperature > 0 && Number.isFinite(temperature),
    'temperature',
    'above 0 (doSample: false is greedy)',
    temperature,
  )
  check(Number.isInteger(topK) && topK >= 0, 'topK', 'a non-negative integer', topK)
  check(topP > 0 && topP <= 1, 'topP', 'above 0 and at most 1', topP)
  check(repetitionPenalty > 0 && Number.isFinite(repetitionPenalty), 'repetitionPenalty', 'above 0', repetitionPenalty)
  check(Number.isSafeInteger(seed) && seed >= 0, 'seed', 'a non-negative integer', seed)
  return {
    maxNewTokens,
    temperature: doSample ? temperature : 0,
    topK,
    topP,
    repetitionPenalty,
    seed,
    eosTokenIds: new Set(eosTokenId === null ? [] : [eosTokenId].flat()),
    stopWatch: stopWatch(options),
  }
}

function stopWatch({ stopStrings = [], tokenizer }: GenerateOptions): Sampling['stopWatch'] {
  const strings = typeof stopStrings === 'string' ? [stopStrings] : stopStrings
  check(
    strings.every((string) => typeof string === 'string' && string !== ''),
    'stopStrings',
    'strings that are not empty',
    JSON.stringify(stopStrings),
  )
  if (strings.length === 0) return () => () => false
  if (!tokenizer) throw new RangeError('generate: stopStrings needs the option tokenizer, to know the text of the ids')
  return () => {
    const text = tokenizer.createDecodeStream()
    const stop = new StopStrings(strings)
    return (id) => {
      stop.push(text.push(id))
      return stop.stopped
    }
  }
}

/**
 * Checks the ids of a sequence against the model.
 * @throws {OpenAlpacaError} `EMPTY_SEQUENCE`, `SEQUENCE_TOO_LONG`, `INVALID_TOKEN`
 */
export function checkSequence(ids: readonly number[], { vocabSize, maxPositionEmbeddings }: LlamaConfig): void {
  if (ids.length === 0) throw new OpenAlpacaError('EMPTY_SEQUENCE', 'a sequence must have at least one token')
  checkLength(ids.length, maxPositionEmbeddings, 'a sequence')
  const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)
  if (wrong !== undefined) {
    throw new OpenAlpacaError('INVALID_TOKEN', `token id ${wrong} is outside the model's vocabulary of ${vocabSize}`)
  }
}

/** @throws {OpenAlpacaError} `SEQUENCE_TOO_LONG` */
export function checkLength(length: number, context: number, what: string): void {
  if (length > context) {
    throw new OpenAlpacaError(
      'SEQUENCE_TOO_LONG',
      `${what} of ${length} tokens is longer than the model's context of ${context}`,
    )
  }
}
