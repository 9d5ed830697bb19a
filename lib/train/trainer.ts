/** A training run from the first batch to the saved model; the file follows the order of the run. */
import { createHash } from 'node:crypto'
import { checkOptions } from '../arguments.js'
import type { LlamaForCausalLM } from '../causal-lm.js'
import { alpacaChatTemplate } from '../data/chat-template.js'
import { buildInstances, type Instance } from '../data/instances.js'
import { type Dataset, type InstructionRow, readDataset, toDataset } from '../data/instructions.js'
import type { DataNotes } from '../data/notes.js'
import { type BatchPlan, batchesFrom, splitValidation, totalSteps } from '../data/order.js'
import { fileSource } from '../data/text-file.js'
import { CheckpointError, DataError, RecipeError, TokenizerError } from '../errors.js'
import { readManifest } from '../formats/checkpoint/manifest.js'
import { withLocks } from '../io/lock.js'
import { addEndToken } from '../model/config.js'
import { parameterCount } from '../model/layout.js'
import { unlistedEndToken } from '../model/special-tokens.js'
import type { TrainPass } from '../model/train-pass.js'
import type { RankGroup } from '../parallel/group.js'
import { describeSurplus, type LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { packageVersion } from '../version.js'
import { shortRunWarnings } from './advice.js'
import { sampleAnswers } from './answers.js'
import { type CheckpointState, changedSettings, keepCheckpoints, loadCheckpoint, resolveResume } from './checkpoint.js'
import { CheckpointWriter } from './checkpoint-writer.js'
import { type EndEvent, Followers, type TrainEvent, type TrainSubscriber } from './events.js'
import { measurePeakFlops, trainingFlops } from './flops.js'
import { AdamW } from './optimizer.js'
import { type RecipeOptions, recipeFromOptions, withMaxLength } from './recipe.js'
import { defaultMaxLength, type Recipe, type SizedRecipe } from './recipe-schema.js'
import { learningRateAt, type ScheduleOptions, scheduleOf } from './schedule.js'
import { batchShape, evaluate, paddedTokens, trainStep } from './step.js'

/** A recipe's keys in camel case, plus the model, tokenizer, and data. */
export interface TrainerOptions extends Partial<Omit<RecipeOptions, 'model'>> {
  /** Trained in place. */
  model: LlamaForCausalLM
  /** The model's. Training sets its chat template to the prompt that the model learns. */
  tokenizer: LlamaTokenizer
  /** Instructions to train on, in place of `dataPath`. */
  data?: readonly InstructionRow[]
  /** @internal Notes on `data` if it was read from a file: the calling program shows them itself. */
  notes?: DataNotes
}

/** Subscribers to a run, and the signal that stops it. */
export interface TrainOptions {
  /** Called after every optimizer step. */
  onStep?: (event: Extract<TrainEvent, { type: 'step' }>) => void
  /** Subscribers to the run, such as the log; the trainer doesn't close them. */
  subscribers?: TrainSubscriber[]
  /**
   * Called and awaited after the last step, before the last checkpoint, validation, and samples; save the model here.
   * All ranks call it.
   */
  onTrained?: () => Promise<void>
  /** When aborted, the step in progress finishes, a checkpoint is written, and `train` resolves. */
  signal?: AbortSignal
}

/** The outcome of a run. */
export interface TrainResult {
  /** Optimizer steps done, including those before a resume. */
  steps: number
  /** Optimizer steps of the complete run. */
  totalSteps: number
  /** Loss of the last step. */
  loss: number
  /** Loss of the last validation. */
  validationLoss?: number
  /** `stopped`: by `signal`, after a checkpoint if the recipe has a `savePath`. */
  reason: 'completed' | 'stopped'
}

/** Fine-tunes a model on instructions according to a recipe. */
export class Trainer {
  private readonly model: LlamaForCausalLM
  private readonly tokenizer: LlamaTokenizer
  private readonly data?: Dataset
  private readonly notes?: DataNotes
  /** Every key, with defaults filled in. */
  readonly recipe: SizedRecipe

  /**
   * @throws {RecipeError} for an unknown option or a value out of range
   * @throws {DataError} for a row of `data` that is not an instruction with an answer
   */
  constructor({ model, tokenizer, data, notes, ...options }: TrainerOptions) {
    this.model = model
    this.tokenizer = tokenizer
    this.data = data && toDataset(data)
    this.notes = notes
    this.recipe = withMaxLength(recipeFromOptions(options), model.config.maxPositionEmbeddings)
    if (!data && !this.recipe.data_path) throw new RecipeError('data_path is required: pass a file of instructions')
    const surplus = describeSurplus(tokenizer, model.config.vocabSize)
    if (surplus !== undefined) throw new TokenizerError(`${surplus}: pass the tokenizer of this model`)
  }

  /**
   * Trains to the end of the recipe, or until `signal` is aborted.
   * @throws {DataError} for unusable data
   * @throws {CheckpointError} for a checkpoint that cannot be read or written
   * @throws {OpenAlpacaError} `IN_USE` for a `savePath` that another process trains into
   * @throws {NonFiniteError} for a loss or gradient that is not finite; the weights are as before that step
   */
  async train(options: TrainOptions = {}): Promise<TrainResult> {
    checkOptions('train', options, ['onStep', 'subscribers', 'onTrained', 'signal'] satisfies (keyof TrainOptions)[])
    const dataset = this.data ?? (await readDataset(fileSource(this.recipe.data_path!)))
    if (!this.notes) {
      for (const line of dataset.notes.lines()) process.emitWarning(line, 'DataWarning')
    }
    const data = await this.prepare({ ...dataset, ...(this.notes && { notes: this.notes }) })
    const { save_path: savePath, offload } = this.recipe
    const isFirst = this.model.parameters.group.rank === 0 // the ranks of a run share its directory
    return await withLocks(isFirst && savePath ? [savePath] : [], async () => {
      if (offload === 'optimizer') await this.model.parameters.moveMastersToHost()
      const notes = [this.adoptEndToken(), this.adoptChatTemplate()].filter((note) => note !== undefined)
      using run = new Run(this.model, this.tokenizer, this.recipe, data, options)
      return await run.train(notes)
    })
  }

  /** Makes the trained prompt the chat template of saved models, unless there already is one. Returns a warning. */
  private adoptChatTemplate(): string | undefined {
    this.tokenizer.chatTemplate ??= alpacaChatTemplate
    if (this.tokenizer.chatTemplate === alpacaChatTemplate) return undefined
    return "the model keeps its own chat template, which is not Alpaca's prompt that it is trained on"
  }

  /** Makes the model stop at the end token that it learns, here and in saved models. Returns a warning. */
  private adoptEndToken(): string | undefined {
    const { config } = this.model
    const { eosTokenId } = this.tokenizer
    if (config.eosTokenIds.includes(eosTokenId)) return undefined
    const note = unlistedEndToken(config, this.tokenizer)
    addEndToken(config, eosTokenId)
    return `${note}: it is added to them, and saved with the model`
  }

  /** Tokenizes the data and holds out the validation set. */
  private async prepare({ rows, notes }: Dataset): Promise<TrainingData> {
    const { max_length, validation_size, seed, batch_size, epochs } = this.recipe
    const { instances, dropped, truncated } = await buildInstances(rows, this.tokenizer, max_length)
    const split = splitValidation(instances.length, validation_size, seed)
    const pick = (indices: Uint32Array) => Array.from(indices, (index) => instances[index])
    const data = { train: pick(split.train), validation: pick(split.validation), dropped, truncated, notes }
    if (totalSteps({ count: data.train.length, batchSize: batch_size, epochs, seed }) === 0) {
      throw new DataError(
        `${data.train.length} instances × ${epochs} epochs do not fill one batch of ${batch_size}: lower batch_size`,
      )
    }
    return data
  }
}

interface TrainingData {
  train: Instance[]
  validation: Instance[]
  /** Rows with nothing to learn within max_length. */
  dropped: number
  /** Instances whose answer is cut at max_length. */
  truncated: number
  notes: DataNotes
}

/** One run: its working memory and its progress through the recipe. */
class Run implements Disposable {
  private readonly optimizer: AdamW
  private readonly trainPass: TrainPass
  private readonly schedule: ScheduleOptions
  private readonly plan: BatchPlan
  private readonly maxTokens: number
  private readonly fingerprint: string
  private readonly writer?: CheckpointWriter
  private readonly followers: Followers
  private readonly started = performance.now()
  /** Optimizer steps done, and the total. */
  private step = 0
  /** Optimizer steps of the resumed checkpoint. */
  private resumedStep = 0
  private readonly warnings: string[]
  private readonly totalSteps: number
  private loss = Number.NaN
  private validationLoss?: number
  private peakFlops: number | null = null
  /** All ranks stop after the same step. */
  private stopping = false

  constructor(
    private readonly model: LlamaForCausalLM,
    private readonly tokenizer: LlamaTokenizer,
    private readonly recipe: SizedRecipe,
    private readonly data: TrainingData,
    private readonly options: TrainOptions,
  ) {
    const all = [...data.train, ...data.validation]
    const longest = all.reduce((most, { inputIds }) => Math.max(most, inputIds.length), 0)
    if (recipe.threads) model.parameters.device.setThreads(recipe.threads)
    this.maxTokens = microBatchTokens(recipe, longest)
    this.plan = { count: data.train.length, batchSize: recipe.batch_size, epochs: recipe.epochs, seed: recipe.seed }
    this.totalSteps = Math.min(totalSteps(this.plan), recipe.max_steps ?? Number.POSITIVE_INFINITY)
    this.schedule = scheduleOf(recipe, this.totalSteps)
    this.warnings = shortRunWarnings({
      recipe,
      schedule: this.schedule,
      instances: data.train.length,
      parameters: parameterCount(model.config),
    })
    this.fingerprint = fingerprint(data.train)
    this.optimizer = new AdamW(model.parameters, {
      beta1: recipe.adam_beta1,
      beta2: recipe.adam_beta2,
      epsilon: recipe.adam_epsilon,
      weightDecay: recipe.weight_decay,
    })
    this.trainPass = model.trainPass(paddedTokens(this.maxTokens))
    this.followers = new Followers(options.subscribers)
    if (recipe.save_path) {
      this.writer = new CheckpointWriter({
        savePath: recipe.save_path,
        keepLast: recipe.keep_last ?? 2,
        onWritten: (written) => this.emit({ type: 'checkpoint', ...written }),
      })
    }
  }

  /** @param notes warnings to emit once the run has started */
  async train(notes: readonly string[] = []): Promise<TrainResult> {
    await this.group.agree({ 'the data': this.fingerprint })
    await this.resume()
    await this.announce()
    for (const message of notes) this.emit({ type: 'warning', step: this.step, message })
    try {
      for (const { indices, epoch } of batchesFrom(this.step, this.plan)) {
        await this.heedStop()
        if (this.step >= this.totalSteps || this.stopping) break
        await this.trainBatch(
          Array.from(indices, (index) => this.data.train[index]),
          epoch,
        )
        await this.heedStop()
        this.writer?.check()
        await this.afterStep()
      }
      await this.heedStop()
      await this.finish()
    } catch (cause) {
      const error = await this.group.explain(cause)
      await this.keepCheckpoint(error)
      this.emitEnd('failed', (error as Error).message)
      throw error
    }
    const { step, loss, validationLoss } = this
    return {
      steps: step,
      totalSteps: this.totalSteps,
      loss,
      validationLoss,
      reason: step < this.totalSteps ? 'stopped' : 'completed',
    }
  }

  private get group(): RankGroup {
    return this.model.parameters.group
  }

  private async heedStop(): Promise<void> {
    this.stopping = await this.group.any(this.options.signal?.aborted ?? false)
  }

  private async trainBatch(instances: Instance[], epoch: number): Promise<void> {
    const { recipe, model } = this
    const start = performance.now()
    const lr = learningRateAt(this.step, this.schedule)
    const result = await trainStep(this.trainPass, this.optimizer, instances, {
      lossReduction: recipe.loss_reduction,
      maxTokens: this.maxTokens,
      maxGradNorm: recipe.max_grad_norm,
      lr,
      step: this.step + 1,
    })
    await model.parameters.device.stream.synchronize()
    const seconds = (performance.now() - start) / 1000
    const { lengths, labelTokens } = batchShape(instances)
    const flops = trainingFlops(model.config, lengths, labelTokens)
    this.step++
    this.loss = result.loss
    this.emit({
      type: 'step',
      step: this.step,
      total_steps: this.totalSteps,
      epoch,
      loss: result.loss,
      token_accuracy: result.accuracy,
      grad_norm: result.gradNorm,
      learning_rate: lr,
      tokens: result.tokens,
      label_tokens: result.labelTokens,
      seconds,
      tokens_per_second: result.tokens / seconds,
      utilization: this.peakFlops && flops / seconds / this.peakFlops,
    })
  }

  /** The recipe's work between steps; the end of the run is handled separately. */
  private async afterStep(): Promise<void> {
    const { recipe } = this
    if (this.step === this.totalSteps || this.stopping) return
    const due = (every: number) => every > 0 && this.step % every === 0
    if (due(recipe.validation_every)) await this.validate()
    if (due(recipe.sample_every)) await this.sample()
    if (!due(recipe.checkpoint_every)) return
    if (recipe.checkpoint_in_background) await this.writer?.begin(this.checkpointState())
    else await this.checkpoint()
  }

  /** Finishes a checkpoint that a failed run has begun, unless that needs lost ranks. */
  private async keepCheckpoint(error: unknown): Promise<void> {
    if (['RANK_LOST', 'COLLECTIVE_TIMEOUT'].includes((error as { code: string }).code)) return
    await this.writer?.finish().catch(() => {}) // report the first error
  }

  /** A stopped run writes a checkpoint to resume from. A completed run first saves the model. */
  private async finish(): Promise<void> {
    if (this.step < this.totalSteps) {
      await this.checkpoint()
      this.emitEnd('stopped')
      return
    }
    const unsaved = await this.saveModel()
    const { checkpoint_every, keep_last, save_path } = this.recipe
    const { keep_checkpoints = keep_last === undefined ? 'last' : 'all' } = this.recipe
    const isNeeded = keep_checkpoints !== 'none' || (await this.group.any(unsaved !== undefined))
    if (checkpoint_every > 0 && isNeeded && this.step > this.resumedStep) await this.checkpoint()
    await this.writer?.finish()
    if (unsaved) throw unsaved
    await this.validate()
    await this.sample()
    if (save_path && this.group.rank === 0) await keepCheckpoints(save_path, keep_checkpoints)
    this.emitEnd('completed')
  }

  /** @returns the error of a failed save, on the rank that writes the model; the checkpoint is still attempted */
  private async saveModel(): Promise<CheckpointError | undefined> {
    try {
      await this.options.onTrained?.()
    } catch (error) {
      if (error instanceof CheckpointError) return error
      throw error
    }
    return undefined
  }

  private async validate(): Promise<void> {
    const { validation } = this.data
    if (validation.length === 0) return
    const { loss, accuracy } = await evaluate(this.trainPass, validation, {
      lossReduction: this.recipe.loss_reduction,
      maxTokens: this.maxTokens,
    })
    this.validationLoss = loss
    this.emit({ type: 'validation', step: this.step, loss, token_accuracy: accuracy })
  }

  private async sample(): Promise<void> {
    const { tokenizer, step, recipe } = this
    if (recipe.sample_prompts.length === 0) return
    const emit = (event: TrainEvent) => this.emit(event)
    const options = { step, length: recipe.sample_length, signal: this.options.signal, emit }
    await this.model.asOne((model) => sampleAnswers(model, tokenizer, recipe.sample_prompts, options))
  }

  private async checkpoint(): Promise<void> {
    await this.writer?.write(this.checkpointState())
  }

  private async resume(): Promise<void> {
    const { group } = this
    const own = group.rank === 0 ? await resolveResume(this.recipe) : undefined
    const [directory] = await group.exchange('the checkpoint to resume', own ?? null)
    if (!directory) return
    this.step = await loadCheckpoint(directory, this.checkpointState())
    this.resumedStep = this.step
    const { recipe: before } = await readManifest(directory)
    this.warnings.push(...changedSettings(before, this.recipe))
    if (this.step > this.totalSteps) {
      this.warnings.push(
        `${directory} is at step ${this.step}, beyond the ${this.totalSteps} steps of this run: nothing is left to train`,
      )
    }
  }

  private checkpointState(): CheckpointState {
    const { model, tokenizer, optimizer, recipe, step, fingerprint } = this
    return { parameters: model.parameters, tokenizer, optimizer, recipe, step, dataFingerprint: fingerprint }
  }

  private async announce(): Promise<void> {
    const { model, data, recipe } = this
    const { device } = model.parameters
    // The peak of all ranks together: rank 0's measured peak times the number of ranks; on one machine's CPU rank 0
    // measures with its own threads.
    if (this.group.rank === 0) this.peakFlops = (await measurePeakFlops(device, model.dtype)) * this.group.size
    this.emit({
      type: 'start',
      step: this.step,
      time: new Date().toISOString(),
      recipe,
      model: { parameters: parameterCount(model.config), config: model.config.json },
      device: { type: device.type, name: device.properties.name, dtype: model.dtype, peak_flops: this.peakFlops },
      world_size: this.group.size,
      versions: { 'openalpaca-native': packageVersion, node: process.versions.node },
      total_steps: this.totalSteps,
      train_instances: data.train.length,
      validation_instances: data.validation.length,
      dropped_instances: data.dropped,
      truncated_instances: data.truncated,
      ...data.notes.toJSON(),
    })
    for (const message of this.warnings) this.emit({ type: 'warning', step: this.step, message })
  }

  private emitEnd(reason: EndEvent['reason'], message?: string): void {
    const seconds = (performance.now() - this.started) / 1000
    this.emit({ type: 'end', step: this.step, reason, seconds, ...(message && { message }) })
  }

  private emit(event: TrainEvent): void {
    this.followers.emit(event)
    if (event.type === 'step') this.options.onStep?.(event)
  }

  dispose(): void {
    this.writer?.dispose()
    this.optimizer.dispose()
    this.trainPass.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** The maximum number of tokens in a micro-batch, for data whose longest instance has `longest`. */
export function microBatchTokens(
  { max_tokens_per_micro_batch, max_length = defaultMaxLength, batch_size }: Recipe,
  longest: number,
): number {
  // Enough tokens to keep the matrix units busy, and at least one instance of the maximum length.
  return Math.max(max_tokens_per_micro_batch ?? Math.min(Math.max(max_length, 4096), max_length * batch_size), longest)
}

/** Identifies a tokenized data set, so that a run is not resumed on other data. */
function fingerprint(instances: Instance[]): string {
  const hash = createHash('sha256')
  for (const { id, inputIds, labels } of instances) hash.update(`${id}:`).update(inputIds).update(labels)
  return hash.digest('hex')
}
