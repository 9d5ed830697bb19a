import path from 'node:path'
import { checkIds, checkOptions, checkText, isList } from './arguments.js'
import { batchTotals, type LossReduction, type PackedBatch, packSequences } from './data/packing.js'
import { type Device, type DeviceType, openDevice } from './device.js'
import { ConfigError, OpenAlpacaError } from './errors.js'
import { openModelWeights } from './formats/model-files.js'
import { Decoder } from './generate/decoder.js'
import { checkLength, checkSequence, type GenerateOptions, resolveOptions } from './generate/options.js'
import { resolveModelPath } from './hub/download.js'
import { finishInterruptedReplacement } from './io/atomic.js'
import { type ConfigJson, type LlamaConfig, parseConfig, readConfig } from './model/config.js'
import { ForwardPass } from './model/forward-pass.js'
import { type ModelDType, Parameters } from './model/parameters.js'
import { RopeCache } from './model/rope.js'
import { resolveTies } from './model/ties.js'
import { TrainPass } from './model/train-pass.js'
import type { RankGroup } from './parallel/group.js'
import { type SaveOptions, type SaveResult, saveModel } from './save.js'
import type { OnWarning } from './warnings.js'

/** Device, dtype, and other options of a model. */
export interface ModelOptions {
  /** Defaults to `cuda` if available, else `cpu`. */
  device?: DeviceType | 'auto' | Device
  /** Defaults to bfloat16 if the device has it in hardware, else float32. */
  dtype?: ModelDType | 'auto'
  /**
   * Keeps a float32 copy of bfloat16 weights from the start, so that training begins from the file's full precision.
   */
  masterWeights?: boolean
  /** @internal The ranks that train the model together, each with its shard of it. */
  group?: RankGroup
  /** Called with unusual but harmless facts about the model; defaults to a Node.js warning. */
  onWarning?: OnWarning
  /** When aborted, reading or downloading stops, and the promise rejects. */
  signal?: AbortSignal
}

const modelOptions: (keyof ModelOptions)[] = ['device', 'dtype', 'masterWeights', 'group', 'onWarning', 'signal']
const saveOptions: (keyof SaveOptions)[] = ['format', 'maxShardSize', 'dtype', 'tokenizer', 'strict', 'onWarning']

/** A LLaMA in device memory: logits, gradients, generation, saving. Dispose of it when it is no longer needed. */
export class LlamaForCausalLM implements Disposable {
  private readonly rope: RopeCache
  private disposed = false

  private constructor(
    /** @internal */
    readonly parameters: Parameters,
    /** The directory that it was loaded from. */
    readonly directory?: string,
  ) {
    this.rope = new RopeCache(parameters.device, parameters.config)
  }

  /** The model's shape. */
  get config(): LlamaConfig {
    return this.parameters.config
  }

  /** The type of its device. */
  get device(): DeviceType {
    return this.parameters.device.type
  }

  /** Of weights and activations. */
  get dtype(): ModelDType {
    return this.parameters.dtype
  }

  /**
   * Loads a Hugging Face model directory: safetensors or torch `.bin`, in one file or in shards.
   * @param modelPath the directory, or the model's name on the Hub (`owner/name`), which is downloaded
   * @throws {HubError} for a name that is neither a directory nor a downloadable model
   * @throws {ConfigError} for a config.json that is missing or of another architecture
   * @throws {CheckpointError} for weights that are missing, cut short, or do not fit the config
   */
  static async fromPretrained(modelPath: string, options: ModelOptions = {}): Promise<LlamaForCausalLM> {
    checkText('fromPretrained: modelPath', modelPath)
    checkOptions('fromPretrained', options, modelOptions)
    const directory = await resolveModelPath(modelPath, { signal: options.signal })
    await finishInterruptedReplacement(directory)
    const read = await readConfig(directory)
    const stored = await openModelWeights(directory)
    try {
      const onWarning = (options.group?.rank ?? 0) === 0 ? options.onWarning : () => {}
      const { config, weights } = await resolveTies(read, stored, directory, onWarning)
      const model = LlamaForCausalLM.create(config, options, path.resolve(directory))
      try {
        await model.parameters.load(weights, directory, options.signal)
      } catch (error) {
        model.dispose()
        throw error
      }
      return model
    } finally {
      await stored.close()
    }
  }

  /**
   * A new model with random weights, from the keys of a config.json; a seed gives the same weights on every run.
   * @throws {ConfigError} for an unsupported shape
   * @throws {OpenAlpacaError} `DEVICE_UNAVAILABLE` or `OUT_OF_MEMORY` for an unusable device or a lack of memory
   */
  static fromConfig(config: ConfigJson, options: ModelOptions & { seed?: number } = {}): LlamaForCausalLM {
    checkOptions('fromConfig', options, [...modelOptions, 'seed'])
    const model = LlamaForCausalLM.create(parseConfig(config), options)
    model.parameters.initialize(options.seed ?? 0)
    return model
  }

  private static create(config: LlamaConfig, options: ModelOptions, directory?: string): LlamaForCausalLM {
    const device = openDevice(options.device)
    const dtype = !options.dtype || options.dtype === 'auto' ? device.preferredDType : options.dtype
    if (dtype !== 'bfloat16' && dtype !== 'float32') {
      throw new ConfigError(`dtype must be bfloat16 or float32, got ${dtype}`)
    }
    return device.allocating(() => {
      const parameters = new Parameters(device, config, dtype, options.group)
      if (options.masterWeights) void parameters.masters
      return new LlamaForCausalLM(parameters, directory)
    })
  }

  /**
   * The logits of every position of every sequence.
   * @returns per sequence, [tokens, vocabulary], flat and row-major
   * @throws {OpenAlpacaError} `INVALID_TOKEN`, `SEQUENCE_TOO_LONG`, or `EMPTY_SEQUENCE` for invalid ids; `DISPOSED` for
   *   a disposed model
   */
  async logits(sequences: readonly (readonly number[])[]): Promise<Float32Array[]> {
    this.check(sequences)
    const { device, config } = this.parameters
    const { stream } = device
    const { vocabSize } = config
    const batch = pack(sequences, sequences, 'token')
    const tokens = batch.inputIds.length
    using pass = device.allocating(() => new ForwardPass(this.parameters, this.rope, { maxTokens: tokens }))
    using chunk = device.tensor('float32', [pass.head.chunk, vocabSize])
    const { activations } = pass.run(batch)
    const all = new Float32Array(tokens * vocabSize)
    for (let start = 0; start < tokens; start += pass.head.chunk) {
      const rows = Int32Array.from({ length: Math.min(pass.head.chunk, tokens - start) }, (_, i) => start + i)
      const values = chunk.rows(0, rows.length)
      pass.withHead(1, () => {
        pass.head.logits(pass.context, activations, rows, values)
      })
      await stream.read(values, all.subarray(start * vocabSize, (start + rows.length) * vocabSize))
    }
    return sequences.map((_, s) => all.slice(batch.cuSeqlens[s] * vocabSize, batch.cuSeqlens[s + 1] * vocabSize))
  }

  /**
   * The loss of a batch and the gradient of every parameter.
   * @param labels aligned with the sequences, −100 for tokens that are not learned; labels[t] is predicted from tokens
   *   < t
   * @returns the loss, and gradients by Hugging Face name, float32, flat and row-major
   * @throws {RangeError} for labels whose length differs from their sequence's
   * @throws {OpenAlpacaError} `INVALID_TOKEN`, `SEQUENCE_TOO_LONG`, or `EMPTY_SEQUENCE` for invalid ids; `DISPOSED` for
   *   a disposed model
   */
  async lossAndGradients(
    sequences: readonly (readonly number[])[],
    labels: readonly (readonly number[])[],
    { lossReduction = 'instance' }: { lossReduction?: LossReduction } = {},
  ): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
    this.check(sequences)
    sequences.forEach((sequence, i) => {
      if (labels[i]?.length !== sequence.length) {
        throw new RangeError(`labels[${i}] must have the ${sequence.length} entries of its sequence`)
      }
      checkSequence(labels[i].filter((label) => label >= 0).concat(sequence[0]), this.config)
    })
    const batch = pack(sequences, labels, lossReduction)
    using pass = this.trainPass(batch.inputIds.length)
    const { losses, weights } = await pass.forwardBackward(batch)
    const loss = losses.reduce((sum, value, i) => sum + value * weights[i], 0)
    return { loss, gradients: await this.parameters.toMap(pass.gradients) }
  }

  /**
   * @internal Lets a group use the model for generation as one process does: on rank 0 alone if it has all weights, or
   *   enough memory for a copy of them; else on all ranks together, which must then make the same calls. All ranks must
   *   call it.
   * @param copy overrides whether a copy is made, regardless of free memory
   * @returns the result of `use`; undefined on a rank that took no part
   */
  async asOne<T>(
    use: (model: LlamaForCausalLM) => Promise<T>,
    { copy }: { copy?: boolean } = {},
  ): Promise<T | undefined> {
    this.checkUsable()
    const { group, weights } = this.parameters
    if (group.stage < 3) {
      weights.gatherAll()
      return group.rank === 0 ? await use(this) : undefined
    }
    const [[fits]] = await group.gatherNumbers([Number(copy ?? this.parameters.copyFits)])
    if (!fits) return await use(this)
    const whole = await this.parameters.copyWhole()
    if (!whole) return undefined
    using model = new LlamaForCausalLM(whole, this.directory)
    return await use(model)
  }

  /** Throws the reason of an aborted signal; if ranks generate together, on all of them when any is to stop. */
  private async heedAbort(signal: AbortSignal | undefined): Promise<void> {
    const { group } = this.parameters
    if (group.stage === 3 && (await group.any(signal?.aborted ?? false)) && !signal?.aborted) {
      throw new DOMException('another rank was stopped', 'AbortError')
    }
    signal?.throwIfAborted()
  }

  /** @internal Working memory for training on batches of at most `maxTokens` tokens. */
  trainPass(maxTokens: number): TrainPass {
    this.checkUsable()
    return new TrainPass(this.parameters, this.rope, maxTokens)
  }

  /**
   * Generates an answer. Returns only new ids, without the end token; a list of prompts gives a list of answers. After
   * an error the model can still be used.
   * @throws {TypeError} for invalid ids, and for an unknown option
   * @throws {RangeError} for an option out of range
   * @throws {OpenAlpacaError} `INVALID_TOKEN`, `SEQUENCE_TOO_LONG`, or `EMPTY_SEQUENCE` for invalid ids; `DISPOSED` for
   *   a disposed model; `NON_FINITE` for logits that are not finite; or an error of the device
   * @throws {Error} for an aborted `signal`: its reason, an `AbortError`
   */
  generate(ids: readonly number[], options?: GenerateOptions): Promise<number[]>
  /** The answers to several prompts, computed together. */
  generate(ids: readonly (readonly number[])[], options?: GenerateOptions): Promise<number[][]>
  async generate(
    ids: readonly number[] | readonly (readonly number[])[],
    options: GenerateOptions = {},
  ): Promise<number[] | number[][]> {
    checkIds('generate: ids', ids, { lists: true })
    if (ids.length > 0 && isList(ids[0])) {
      const prompts = (ids as number[][]).map((prompt) => Array.from(prompt))
      return await this.generateBatch(prompts, options)
    }
    return (await this.generateBatch([Array.from(ids as number[])], options))[0]
  }

  /**
   * Yields the ids of `generate` for one prompt as they are computed; throws the errors that `generate` rejects with.
   */
  async *stream(ids: readonly number[], options: GenerateOptions = {}): AsyncGenerator<number> {
    checkIds('stream: ids', ids)
    for await (const [id] of this.decode([Array.from(ids)], options)) {
      if (id === null) return
      yield id
    }
  }

  private async generateBatch(prompts: readonly (readonly number[])[], options: GenerateOptions): Promise<number[][]> {
    const answers: number[][] = prompts.map(() => [])
    const size = Decoder.maxBatch(this.config.vocabSize)
    for (let start = 0; start < prompts.length; start += size) {
      for await (const ids of this.decode(prompts.slice(start, start + size), options)) {
        ids.forEach((id, b) => {
          if (id !== null) answers[start + b].push(id)
        })
      }
    }
    return answers
  }

  /** Yields one token for every prompt at a time, null for those that have ended, until all have. */
  private async *decode(
    prompts: readonly (readonly number[])[],
    options: GenerateOptions,
  ): AsyncGenerator<(number | null)[]> {
    const { config } = this
    const { maxPositionEmbeddings: context } = config
    this.check(prompts)
    const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0)
    const sampling = resolveOptions(options, config, context - longest)
    const capacity = longest + sampling.maxNewTokens
    checkLength(capacity, context, 'prompt and new tokens')
    await this.heedAbort(options.signal)
    this.rope.reserve(capacity)
    using decoder = this.parameters.device.allocating(
      () => new Decoder(this.parameters, this.rope, prompts, sampling, capacity),
    )
    const ended = prompts.map(() => false)
    const stops = prompts.map(() => sampling.stopWatch())
    for await (const ids of decoder.tokens()) {
      await this.heedAbort(options.signal)
      ids.forEach((id, b) => {
        ended[b] ||= sampling.eosTokenIds.has(id)
      })
      if (ended.every(Boolean)) return
      yield Array.from(ids, (id, b) => (ended[b] ? null : id))
      ids.forEach((id, b) => {
        ended[b] ||= stops[b](id)
      })
      if (ended.every(Boolean)) return
    }
  }

  /**
   * Writes a Hugging Face directory that Transformers reads: config, weights in shards, and the tokenizer's files if
   * the model was loaded from a directory. It appears completely or not at all.
   * @returns the values that `dtype` cannot hold, such as weights beyond 65504 in float16; in a group, on rank 0
   * @throws {CheckpointError} for output that cannot be written
   * @throws {NonFiniteError} with `strict`, for values that `dtype` cannot hold; nothing is written then
   */
  async savePretrained(directory: string, options: SaveOptions = {}): Promise<SaveResult> {
    this.checkUsable()
    checkText('savePretrained: directory', directory)
    checkOptions('savePretrained', options, saveOptions)
    return await saveModel(this.parameters, directory, options, this.directory)
  }

  private check(sequences: readonly (readonly number[])[]): void {
    this.checkUsable()
    for (const sequence of sequences) checkSequence(sequence, this.config)
    this.rope.reserve(Math.max(...sequences.map(({ length }) => length)))
  }

  private checkUsable(): void {
    if (this.disposed) throw new OpenAlpacaError('DISPOSED', 'the model has been disposed of')
  }

  /** Frees the device memory. */
  dispose(): void {
    this.disposed = true
    this.parameters.dispose()
    this.rope.dispose()
  }

  /** `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** All sequences in one batch. */
function pack(
  sequences: readonly (readonly number[])[],
  labels: readonly (readonly number[])[],
  lossReduction: LossReduction,
): PackedBatch {
  const labeled = sequences.map((sequence, i) => ({
    inputIds: Int32Array.from(sequence),
    labels: Int32Array.from(labels[i]),
  }))
  return packSequences(labeled, { lossReduction, totals: batchTotals(labeled) })
}
