import { checkOptions, shown } from '../arguments.js'
import { OpenAlpacaError } from '../errors.js'
import type { LlamaConfig } from '../model/config.js'
import { StopStrings } from './stop-strings.js'

/** The part of a tokenizer that generation uses; the model's tokenizer implements it. */
export interface GenerationTokenizer {
  /** Decodes ids to the text that `stopStrings` are searched in. */
  createDecodeStream(): { push(id: number): string }
  /** Whether an id has a token; ids without one are never generated. */
  hasToken?(id: number): boolean
}

/** Options of generation, with Transformers' names. */
export interface GenerateOptions {
  /** Maximum number of new tokens; defaults to 128, or the rest of the model's context if shorter. */
  maxNewTokens?: number
  /**
   * Sample from the distribution (true), or take the most likely token (false, regardless of `temperature`, `topK`, and
   * `topP`). Defaults to true if one of those three is given.
   */
  doSample?: boolean
  /** Divides the logits before sampling; defaults to 1, and 0 takes the most likely token. */
  temperature?: number
  /** Sample from the k most likely tokens; defaults to 50, 0 for all. */
  topK?: number
  /** Sample from the smallest set of tokens whose probability reaches p; defaults to 1 (all). */
  topP?: number
  /** Divides the positive logits of tokens seen before, and multiplies the negative ones; defaults to 1 (none). */
  repetitionPenalty?: number
  /** The same seed gives the same text; random by default. */
  seed?: number
  /** Ids that end a sequence; defaults to the model's end tokens, null to continue past them. */
  eosTokenId?: number | readonly number[] | null
  /** A sequence ends with the token that completes one of these; requires `tokenizer`. */
  stopStrings?: string | readonly string[]
  /** The model's tokenizer: required for `stopStrings`, and prevents ids without a token. */
  tokenizer?: GenerationTokenizer
  /** When aborted, no further token is computed, and the promise or the stream rejects with the signal's reason. */
  signal?: AbortSignal
}

const optionNames: Record<keyof GenerateOptions, true> = {
  maxNewTokens: true,
  doSample: true,
  temperature: true,
  topK: true,
  topP: true,
  repetitionPenalty: true,
  seed: true,
  eosTokenId: true,
  stopStrings: true,
  tokenizer: true,
  signal: true,
}

/** Options with every value filled in and checked. */
export interface Sampling {
  maxNewTokens: number
  /** 0 takes the most likely token. */
  temperature: number
  topK: number
  topP: number
  repetitionPenalty: number
  seed: number
  eosTokenIds: Set<number>
  /** Ranges of ids that are never sampled: `start` to `end`, exclusive. */
  excluded: readonly { start: number; end: number }[]
  /** Creates a function that receives one sequence's new ids and returns whether a stop string is complete. */
  stopWatch: () => (id: number) => boolean
}

function check(ok: boolean, name: string, expected: string, value: unknown): void {
  if (!ok) throw new RangeError(`generate: ${name} must be ${expected}, got ${shown(value)}`)
}

/**
 * @param room positions of the context left by the longest prompt
 * @throws {TypeError} for an unknown option
 * @throws {RangeError} for a value out of range
 */
export function resolveOptions(
  options: GenerateOptions,
  { eosTokenIds, vocabSize }: Pick<LlamaConfig, 'eosTokenIds' | 'vocabSize'>,
  room: number,
): Sampling {
  checkOptions('generate', options, Object.keys(optionNames))
  const { temperature = 1, topK = 50, topP = 1, repetitionPenalty = 1 } = options
  const { doSample = [options.temperature, options.topK, options.topP].some((given) => given !== undefined) } = options
  const { maxNewTokens = Math.min(128, Math.max(1, room)) } = options
  const { seed = Math.floor(Math.random() * 2 ** 31), eosTokenId = eosTokenIds } = options
  check(Number.isInteger(maxNewTokens) && maxNewTokens > 0, 'maxNewTokens', 'a positive integer', maxNewTokens)
  check(typeof doSample === 'boolean', 'doSample', 'true or false', doSample)
  check(temperature >= 0 && Number.isFinite(temperature), 'temperature', '0 (greedy) or above', temperature)
  check(Number.isSafeInteger(topK) && topK >= 0, 'topK', 'a non-negative integer', topK)
  check(topP > 0 && topP <= 1, 'topP', 'above 0 and at most 1', topP)
  check(repetitionPenalty > 0 && Number.isFinite(repetitionPenalty), 'repetitionPenalty', 'above 0', repetitionPenalty)
  check(Number.isSafeInteger(seed) && seed >= 0, 'seed', 'a non-negative integer', seed)
  const ends = eosTokenId === null ? [] : [eosTokenId].flat()
  check(ends.every(Number.isInteger), 'eosTokenId', 'a token id, a list of them, or null', eosTokenId)
  return {
    maxNewTokens,
    temperature: doSample ? temperature : 0,
    topK,
    topP,
    repetitionPenalty,
    seed,
    eosTokenIds: new Set(ends),
    excluded: excludedIds(vocabSize, ends, options.tokenizer),
    stopWatch: stopWatch(options),
  }
}

/** Ids of the vocabulary without a token in the tokenizer; ids that end a sequence are always allowed. */
function excludedIds(
  vocabSize: number,
  ends: readonly number[],
  tokenizer: GenerationTokenizer | undefined,
): { start: number; end: number }[] {
  const runs: { start: number; end: number }[] = []
  for (let id = 0; tokenizer?.hasToken && id < vocabSize; id++) {
    if (tokenizer.hasToken(id) || ends.includes(id)) continue
    const last = runs.at(-1)
    if (last?.end === id) last.end++
    else runs.push({ start: id, end: id + 1 })
  }
  // A tokenizer without a token for any id belongs to another model, so it excludes nothing.
  return runs.length === 1 && runs[0].end - runs[0].start === vocabSize ? [] : runs
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
 * @throws {OpenAlpacaError} `EMPTY_SEQUENCE`, `SEQUENCE_TOO_LONG`, or `INVALID_TOKEN` for unusable ids
 */
export function checkSequence(ids: readonly number[], { vocabSize, maxPositionEmbeddings }: LlamaConfig): void {
  if (ids.length === 0) throw new OpenAlpacaError('EMPTY_SEQUENCE', 'a sequence must have at least one token')
  checkLength(ids.length, maxPositionEmbeddings, 'a sequence')
  const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)
  if (wrong !== undefined) {
    throw new OpenAlpacaError('INVALID_TOKEN', `token id ${wrong} is outside the model's vocabulary of ${vocabSize}`)
  }
}

/** @throws {OpenAlpacaError} `SEQUENCE_TOO_LONG` for a length beyond the context */
export function checkLength(length: number, context: number, what: string): void {
  if (length > context) {
    throw new OpenAlpacaError(
      'SEQUENCE_TOO_LONG',
      `${what} of ${length} tokens is longer than the model's context of ${context}`,
    )
  }
}
