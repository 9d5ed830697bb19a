import { readFileSync } from 'node:fs'
import { RecipeError } from '../errors.js'
import { parseJson } from '../json.js'
import type { RecipeLayer } from './recipe.js'
import type { RecipeInput } from './recipe-schema.js'

export interface DeepSpeedConfig {
  /** The recipe keys that the file sets. */
  layer: RecipeLayer
  /** One sentence for each setting that is handled differently here, or not at all. */
  notes: string[]
}

type Section = Record<string, unknown>

/**
 * Reads a DeepSpeed configuration (https://www.deepspeed.ai/docs/config-json/) as recipe settings. A value of "auto"
 * leaves the choice to the recipe. The values are checked when the layer is resolved, so that the error for a wrong one
 * names the file.
 * @throws {RecipeError} for a file that cannot be read or is not a JSON object
 */
export function readDeepSpeedConfig(path: string): DeepSpeedConfig {
  let parsed: unknown
  try {
    parsed = parseJson(readFileSync(path))
  } catch (cause) {
    throw new RecipeError(`cannot read the DeepSpeed file ${path}: ${(cause as Error).message}`, { cause })
  }
  if (!isSection(parsed)) throw new RecipeError(`the DeepSpeed file ${path} is not a JSON object`)
  return translateDeepSpeedConfig(parsed, path)
}

/** `readDeepSpeedConfig` for a parsed file; error messages call it `label`. */
export function translateDeepSpeedConfig(config: Section, label: string): DeepSpeedConfig {
  const reader = new Reader(config, '')
  const values: Partial<RecipeInput> = {}
  const notes: string[] = []
  translateBatch(reader, values, notes)
  translateNumbers(reader, values, notes)
  translateOptimizer(reader.section('optimizer'), values, notes)
  translateScheduler(reader.section('scheduler'), values, notes)
  translateMemory(reader, values, notes)
  set(values, 'max_grad_norm', reader.take('gradient_clipping'))
  set(values, 'log_every', reader.take('steps_per_print'))
  const unused = reader.unused()
  if (unused.length > 0) notes.push(`not used, no equivalent: ${unused.join(', ')}`)
  return { layer: { values, where: () => label }, notes }
}

/** Reads the values of a JSON object and records which of them are unused. */
class Reader {
  private readonly taken = new Set<string>()
  private readonly sections: Reader[] = []

  constructor(
    private readonly values: Section,
    private readonly prefix: string,
  ) {}

  has(key: string): boolean {
    return this.values[key] !== undefined
  }

  /** The value of a key; undefined when it is absent or "auto". */
  take(key: string): unknown {
    this.taken.add(key)
    const value = this.values[key]
    return value === 'auto' ? undefined : value
  }

  section(key: string): Reader {
    const value = this.take(key)
    const reader = new Reader(isSection(value) ? value : {}, `${this.prefix}${key}.`)
    this.sections.push(reader)
    return reader
  }

  /** Marks all remaining keys as read, and returns their names. */
  takeRest(): string[] {
    const rest = Object.keys(this.values).filter((key) => !this.taken.has(key))
    for (const key of rest) this.taken.add(key)
    return rest
  }

  /** The keys that were given but not read, with sections last, as `optimizer.params.amsgrad`. */
  unused(): string[] {
    const own = Object.keys(this.values).filter((key) => !this.taken.has(key))
    return [...own.map((key) => this.prefix + key), ...this.sections.flatMap((section) => section.unused())]
  }
}

function set<K extends keyof RecipeInput>(values: Partial<RecipeInput>, key: K, value: unknown): void {
  if (value !== undefined) values[key] = value as RecipeInput[K]
}

function translateBatch(reader: Reader, values: Partial<RecipeInput>, notes: string[]): void {
  const batch = reader.take('train_batch_size')
  const micro = reader.take('train_micro_batch_size_per_gpu')
  const accumulation = reader.take('gradient_accumulation_steps')
  set(values, 'batch_size', batch)
  if (batch === undefined && typeof micro === 'number') {
    values.batch_size = micro * (typeof accumulation === 'number' ? accumulation : 1)
    notes.push(
      `train_batch_size is not given, so batch_size is train_micro_batch_size_per_gpu · gradient_accumulation_steps = ${values.batch_size}`,
    )
  } else if (micro !== undefined || accumulation !== undefined) {
    notes.push(
      'train_micro_batch_size_per_gpu and gradient_accumulation_steps are not used: instances are packed up to max_tokens_per_micro_batch, with the same gradient',
    )
  }
}

function translateNumbers(reader: Reader, values: Partial<RecipeInput>, notes: string[]): void {
  const bf16 = reader.section('bf16')
  const fp16 = reader.section('fp16')
  const misspelt = !bf16.has('enabled') && bf16.has('enable')
  const bf16Enabled = bf16.take(misspelt ? 'enable' : 'enabled')
  const fp16Enabled = fp16.take('enabled')
  if (misspelt) {
    notes.push('bf16.enable is a misspelling of bf16.enabled, which DeepSpeed ignores; it is used here')
  }
  if (bf16Enabled === true || fp16Enabled === true) values.dtype = 'bfloat16'
  else if (bf16Enabled === false || fp16Enabled === false) values.dtype = 'float32'
  fp16.takeRest()
  if (fp16Enabled === true) {
    notes.push('fp16 is not supported: training uses bfloat16 with float32 master weights, which needs no loss scaling')
  }
}

function translateOptimizer(optimizer: Reader, values: Partial<RecipeInput>, notes: string[]): void {
  const type = optimizer.take('type')
  const params = optimizer.section('params')
  if (type !== undefined && !/^adamw?$/i.test(String(type))) {
    notes.push(`optimizer ${String(type)} is not supported: AdamW is used, with the parameters that apply`)
  }
  const betas = params.take('betas')
  const [beta1, beta2] = Array.isArray(betas) ? betas : [betas]
  set(values, 'adam_beta1', beta1)
  set(values, 'adam_beta2', beta2)
  set(values, 'learning_rate', params.take('lr'))
  set(values, 'adam_epsilon', params.take('eps'))
  set(values, 'weight_decay', params.take('weight_decay'))
  params.take('torch_adam')
  if (params.take('adam_w_mode') === false) {
    notes.push('optimizer.params.adam_w_mode false is not supported: weight decay is decoupled, as in AdamW')
  }
}

const schedulers: Record<string, RecipeInput['lr_scheduler']> = {
  WarmupLR: 'constant',
  WarmupDecayLR: 'warmup_decay',
  WarmupCosineLR: 'cosine',
}

function translateScheduler(scheduler: Reader, values: Partial<RecipeInput>, notes: string[]): void {
  const type = scheduler.take('type')
  const params = scheduler.section('params')
  if (type === undefined) return
  const kind = Object.hasOwn(schedulers, String(type)) ? schedulers[String(type)] : undefined
  if (kind === undefined) {
    notes.push(`scheduler ${String(type)} is not supported; the recipe's lr_scheduler is used`)
    return
  }
  values.lr_scheduler = kind
  set(values, 'min_learning_rate', params.take('warmup_min_lr'))
  set(values, 'warmup_type', params.take('warmup_type'))
  const peak = params.take('warmup_max_lr')
  if (values.learning_rate !== undefined && peak !== undefined && peak !== values.learning_rate) {
    notes.push(`scheduler.params.warmup_max_lr ${String(peak)} overrides optimizer.params.lr, as in DeepSpeed`)
  }
  set(values, 'learning_rate', peak)
  if (kind === 'cosine' && values.learning_rate !== undefined) {
    const floor = params.take('cos_min_ratio') ?? 1e-4 // DeepSpeed's default
    if (typeof floor === 'number') values.min_learning_rate = floor * values.learning_rate
  }
  if (kind !== 'warmup_decay') {
    notes.push(
      `scheduler ${String(type)}: the warm-up is one update earlier than in DeepSpeed, whose engine sets the rate after an update`,
    )
  }
  translateLength(params, values, notes)
}

/**
 * A warm-up counted in steps belongs to the total in the same file. This run has its own length, and the trainers that
 * such files come from overwrite both numbers with theirs (OpenAlpaca's does), so both are ignored.
 */
function translateLength(params: Reader, values: Partial<RecipeInput>, notes: string[]): void {
  const total = params.take('total_num_steps')
  const warmup = params.take('warmup_num_steps')
  if (total === undefined) {
    set(values, 'warmup_steps', warmup)
    return
  }
  const hint = warmup === undefined ? '' : ` (--warmup_steps ${String(warmup)} keeps the file's warm-up)`
  notes.push(
    `scheduler.params.total_num_steps ${String(total)} and its warmup_num_steps are not used: the schedule spans this run, and warms up over max(warmup_min, warmup_ratio · its steps)${hint}`,
  )
}

function translateMemory(reader: Reader, values: Partial<RecipeInput>, notes: string[]): void {
  const zero = reader.section('zero_optimization')
  set(values, 'zero_stage', zero.take('stage'))
  translateOffload(zero, values, notes)
  const prefetch = zero.take('stage3_prefetch_bucket_size') ?? zero.take('prefetch_bucket_size')
  if (prefetch === 0) values.prefetch_blocks = 0
  else if (typeof prefetch === 'number') {
    notes.push('stage3_prefetch_bucket_size is not used: weights are fetched by whole blocks, prefetch_blocks of them')
  }
  const buckets = ['allgather_bucket_size', 'reduce_bucket_size'].filter((key) => zero.take(key) !== undefined)
  if (buckets.length > 0) notes.push(`${buckets.join(', ')} are not used: a transformer block is the bucket`)
  const rest = zero.takeRest()
  if (rest.length > 0) notes.push(`zero_optimization: ${rest.join(', ')} are not used`)
  if (reader.has('activation_checkpointing')) {
    reader.take('activation_checkpointing')
    notes.push('activation_checkpointing is not used: the model always recomputes what is cheap in the backward pass')
  }
}

function translateOffload(zero: Reader, values: Partial<RecipeInput>, notes: string[]): void {
  const legacy = zero.take('cpu_offload') === true
  const optimizer = zero.section('offload_optimizer')
  const where = optimizer.take('device') ?? (zero.has('offload_optimizer') ? 'cpu' : undefined)
  optimizer.takeRest() // no effect on the result
  if (legacy || where === 'cpu' || where === 'nvme') values.offload = 'optimizer'
  else if (where === 'none') values.offload = 'none'
  if (where === 'nvme')
    notes.push('offload_optimizer to nvme is not supported: master weights and moments stay in memory')
}

function isSection(value: unknown): value is Section {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
