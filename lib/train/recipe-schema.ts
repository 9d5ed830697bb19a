import { z } from 'zod'

/** A size in Hugging Face's notation: `5GB` is 5·10⁹ bytes, `5GiB` is 5·2³⁰. */
export const byteSize = z.string().regex(/^\d+(\.\d+)?([KMGT]i?)?B$/)

/** The default of `max_length`: OpenAlpaca's for 3B. */
export const defaultMaxLength = 1536

const count = (minimum: number) => z.int().min(minimum)

const modelShape = {
  vocab_size: count(1).optional().describe("Rows of the embedding (default: the tokenizer's vocabulary)"),
  hidden_size: count(1).describe('Width of the residual stream'),
  intermediate_size: count(1).describe('Width of the feed-forward layer'),
  num_hidden_layers: count(1).describe('Transformer blocks'),
  num_attention_heads: count(1).describe('Query heads'),
  num_key_value_heads: count(1).optional().describe('Key/value heads (default: the number of query heads)'),
  head_dim: count(4).optional().describe('Size of a head (default: hidden_size / num_attention_heads)'),
  max_position_embeddings: count(1).optional().describe('Longest context (default: max_length)'),
  rms_norm_eps: z.number().positive().optional().describe('ε of the RMSNorm layers'),
  rope_theta: z.number().positive().optional().describe('Base of the rotary frequencies'),
  tie_word_embeddings: z.boolean().optional().describe('Use the embedding as the output projection too'),
  initializer_range: z.number().positive().optional().describe('Standard deviation of the initial weights'),
}

const samplePrompt = z.union([
  z.string().min(1),
  z.strictObject({ instruction: z.string().min(1), input: z.string().optional() }),
])

/** Every recipe key, in the groups of `--help` and the documentation. */
export const recipeGroups = {
  'Model and files': {
    name: z.string().min(1).default('run').describe('Name of the run in logs and in the report'),
    model_path: z
      .string()
      .min(1)
      .optional()
      .describe('The model to fine-tune: a Hugging Face directory, or a name on the Hub'),
    model: z.strictObject(modelShape).optional().describe('Configuration of a new model, trained from scratch'),
    tokenizer_path: z.string().min(1).optional().describe('Directory with tokenizer.model (default: model_path)'),
    save_path: z.string().min(1).optional().describe('Directory for checkpoints and the trained model'),
    log_path: z.string().min(1).optional().describe('Directory for logs and the report (default: save_path/logs)'),
    resume: z
      .union([z.boolean(), z.string().min(1)])
      .default(false)
      .describe("Resume from a checkpoint: its path, or 'auto' for the last one in save_path; false starts over"),
    overwrite: z
      .boolean()
      .default(false)
      .describe('Delete checkpoints of an earlier run in save_path instead of refusing to start'),
    save_dtype: z
      .enum(['auto', 'bfloat16', 'float16', 'float32'])
      .default('auto')
      .describe('Number format of the saved model; auto keeps that of the training'),
    max_shard_size: byteSize.default('5GB').describe('Largest weight file of the saved model'),
  },
  Data: {
    data_path: z
      .string()
      .min(1)
      .optional()
      .describe('Instructions: JSON, JSON lines, or CSV with {instruction, input, output}'),
    dataset: z.enum(['quickstart']).optional().describe('Built-in generated data in place of data_path'),
    max_length: count(2)
      .optional()
      .describe(
        `Longest instance in tokens; longer ones are cut. When left out, ${defaultMaxLength} or the model's context if that is shorter`,
      ),
    validation_size: z
      .union([z.number().min(0).lt(1), count(1)])
      .default(0)
      .describe('Instances held out for validation, as a count or a fraction below 1; 0 for none'),
    seed: count(0).default(0).describe('Seed of the data order, the validation split, and the initial weights'),
  },
  Batches: {
    epochs: z.number().positive().default(3).describe('Passes over the data'),
    max_steps: count(1).optional().describe('Stop after this many optimizer steps, even before the last epoch ends'),
    batch_size: count(1).default(64).describe('Instances per optimizer step'),
    max_tokens_per_micro_batch: count(2)
      .optional()
      .describe('Tokens packed into one forward and backward pass (default: enough for max_length)'),
    loss_reduction: z
      .enum(['instance', 'token'])
      .default('instance')
      .describe('Mean over the instances of the mean over their tokens, or over all tokens of the batch'),
  },
  Optimizer: {
    learning_rate: z.number().positive().default(2e-5).describe('Peak learning rate of AdamW'),
    adam_beta1: z.number().min(0).lt(1).default(0.9).describe('Decay of the first moment'),
    adam_beta2: z.number().min(0).lt(1).default(0.95).describe('Decay of the second moment'),
    adam_epsilon: z.number().positive().default(1e-8).describe('ε in the denominator of the update'),
    weight_decay: z.number().min(0).default(0.001).describe('Decoupled weight decay, on every parameter'),
    max_grad_norm: z
      .number()
      .min(0)
      .default(1)
      .describe('Global norm that gradients are clipped to; 0 disables clipping'),
  },
  'Learning-rate schedule': {
    lr_scheduler: z
      .enum(['warmup_decay', 'constant', 'cosine'])
      .default('warmup_decay')
      .describe('After the warm-up: linear to the minimum, constant, or half a cosine to the minimum'),
    warmup_type: z.enum(['log', 'linear']).default('log').describe('Shape of the warm-up; log is that of DeepSpeed'),
    warmup_ratio: z.number().min(0).max(1).default(0.1).describe('Warm-up steps as a share of all steps, rounded down'),
    warmup_min: count(0)
      .optional()
      .describe('Minimum number of warm-up steps with warmup_ratio; when left out, 10 or a fifth of a shorter run'),
    warmup_steps: count(0).optional().describe('Number of warm-up steps; replaces warmup_ratio and warmup_min'),
    min_learning_rate: z
      .number()
      .min(0)
      .default(0)
      .describe('Learning rate at the start of the warm-up and the end of the decay'),
  },
  'Device and numbers': {
    device: z.enum(['auto', 'cpu', 'cuda']).default('auto').describe('auto is cuda if a GPU is usable, otherwise cpu'),
    dtype: z
      .enum(['auto', 'bfloat16', 'float32'])
      .default('auto')
      .describe('Weights and activations; auto is bfloat16 if the device supports it in hardware'),
    threads: count(1).optional().describe('CPU threads (default: one per core)'),
  },
  'Several GPUs or processes': {
    gpus: count(1).optional().describe('Number of GPUs of this machine to train on, one process each'),
    ranks: count(1)
      .optional()
      .describe('Number of processes to train in, on the CPU, or with device cuda on the available GPUs'),
    backend: z
      .enum(['auto', 'nccl', 'gloo'])
      .default('auto')
      .describe('Library for collectives; auto is nccl if each rank has its own GPU, otherwise gloo'),
    zero_stage: z
      .int()
      .min(0)
      .max(3)
      .default(3)
      .describe('What is sharded across ranks: 1 optimizer state, 2 also gradients, 3 also weights; 0 nothing'),
    prefetch_blocks: count(0)
      .default(1)
      .describe('Transformer blocks whose weights are prefetched in stage 3; each needs a buffer of one block'),
    offload: z
      .enum(['none', 'optimizer'])
      .default('none')
      .describe("optimizer keeps master weights and moments in the CPU's memory, and updates them there"),
    collective_timeout: z.number().positive().default(600).describe('Seconds to wait for a rank that hangs'),
    max_restarts: count(0).default(0).describe('How often a run that lost a rank restarts from its last checkpoint'),
  },
  'During training': {
    log_every: count(1)
      .default(10)
      .describe('Steps between printed lines if the output is not a terminal (the log has every step)'),
    validation_every: count(0).default(50).describe('Steps between validations; 0 validates at the end only'),
    sample_every: count(0).default(0).describe('Steps between sample answers; 0 for none'),
    sample_prompts: z.array(samplePrompt).default([]).describe('Instructions to answer during training'),
    sample_length: count(1).default(64).describe('Maximum number of tokens in a sample answer'),
    checkpoint_every: count(0).default(100).describe('Steps between checkpoints; 0 for none during the run'),
    checkpoint_in_background: z
      .boolean()
      .default(true)
      .describe('Write checkpoints while training continues, from a copy in host memory: 12 bytes per parameter'),
    keep_last: count(1).optional().describe('Number of checkpoints to keep, 2 when left out; older ones are deleted'),
    keep_checkpoints: z
      .enum(['none', 'last', 'all'])
      .optional()
      .describe(
        'Checkpoints, with optimizer states, that a completed run keeps: none, last (when left out), or all those of keep_last (when that is set)',
      ),
  },
} as const

const shape = {
  ...recipeGroups['Model and files'],
  ...recipeGroups.Data,
  ...recipeGroups.Batches,
  ...recipeGroups.Optimizer,
  ...recipeGroups['Learning-rate schedule'],
  ...recipeGroups['Device and numbers'],
  ...recipeGroups['Several GPUs or processes'],
  ...recipeGroups['During training'],
}

/** A recipe for the trainer: every key checked, defaults filled in. */
export const recipeSchema = z.strictObject(shape)

/** A recipe with every key checked and defaults filled in. */
export interface Recipe extends z.output<typeof recipeSchema> {}
/** A recipe with the length that instances are cut to for its model. */
export type SizedRecipe = Recipe & { max_length: number }
/** A recipe as users write it: missing keys have defaults. */
export type RecipeInput = z.input<typeof recipeSchema>
export type RecipeKey = keyof Recipe

export const recipeKeys = Object.keys(shape) as RecipeKey[]
/** The keys of `model`, which are flags such as `--model.hidden_size`. */
export const modelKeys = Object.keys(modelShape)

/** The schema of a recipe key such as `learning_rate` or `model.hidden_size`; undefined for an unknown one. */
export function schemaOf(key: string): z.ZodType | undefined {
  const nested = key.startsWith('model.')
  const fields: Record<string, z.ZodType> = nested ? modelShape : shape
  const name = nested ? key.slice('model.'.length) : key
  return Object.hasOwn(fields, name) ? fields[name] : undefined
}

interface JsonSchema {
  type?: string
  enum?: unknown[]
  anyOf?: JsonSchema[]
  items?: JsonSchema
  pattern?: string
  minimum?: number
  maximum?: number
  exclusiveMinimum?: number
  exclusiveMaximum?: number
}

/** Describes the values that a schema accepts: "a whole number of at least 1", "one of instance, token". */
export function expectation(schema: z.ZodType): string {
  return inWords(z.toJSONSchema(schema, { io: 'input' }) as JsonSchema)
}

function inWords(schema: JsonSchema): string {
  if (schema.anyOf) return schema.anyOf.map(inWords).join(' or ')
  if (schema.enum) return `one of ${schema.enum.join(', ')}`
  switch (schema.type) {
    case 'integer':
      return `a whole number ${isSmall(schema.maximum) ? `from ${schema.minimum} to ${schema.maximum}` : `of at least ${schema.minimum}`}`
    case 'number':
      return `a number${bounds(schema)}`
    case 'boolean':
      return 'true or false'
    case 'array':
      return `a list, each ${inWords(schema.items!)}`
    case 'string':
      return schema.pattern ? 'a size such as 5GB' : 'a text'
    default:
      return 'a map of keys and values'
  }
}

/** Whether a bound is explicit; safe integers always have an implicit one. */
const isSmall = (maximum: number | undefined) => maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER

function bounds({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: JsonSchema): string {
  if (exclusiveMaximum !== undefined) return ` from ${minimum} to below ${exclusiveMaximum}`
  if (maximum !== undefined) return ` from ${minimum} to ${maximum}`
  return exclusiveMinimum === undefined ? ` of at least ${minimum}` : ` above ${exclusiveMinimum}`
}
