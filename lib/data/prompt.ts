import { checkText, shown } from '../arguments.js'
import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { resolveField } from './fields.js'

/** The fields of a prompt. */
export interface PromptFields {
  /** The task. */
  instruction: string
  /** Context or input for the task; if empty or missing, the prompt has no such part. */
  input?: string | null
  /** Dolly's name for `input`. */
  context?: string | null
}

/**
 * The prompt that OpenAlpaca and Stanford Alpaca train and sample with. It ends in `### Response:` with no newline; the
 * answer is tokenized separately.
 * @throws {TypeError} for fields that are not an object, or an instruction that is not a string
 * @throws {DataError} for an input that is not a string
 */
export function formatPrompt(fields: PromptFields): string {
  if (typeof fields !== 'object' || fields === null) {
    throw new TypeError(`formatPrompt: expected { instruction, input }, got ${shown(fields)}`)
  }
  checkText('formatPrompt: instruction', fields.instruction)
  return promptText(fields.instruction, resolveField(fields, 'input', () => 'formatPrompt') ?? '')
}

/**
 * The ids that an instruction is trained and sampled with: BOS first, nothing appended, regardless of `add_bos_token`
 * and `add_eos_token` in tokenizer_config.json. Training, `sample`, sample answers, and evaluation all use it, so that
 * a model sees the prompt that it has learned.
 * @throws {TypeError} as `formatPrompt` does
 * @throws {DataError} as `formatPrompt` does
 */
export function encodePrompt(tokenizer: LlamaTokenizer, fields: PromptFields): number[] {
  return tokenizer.encode(formatPrompt(fields))
}

function promptText(instruction: string, input: string): string {
  if (input === '') {
    return (
      'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n' +
      `### Instruction:\n${instruction}\n\n### Response:`
    )
  }
  return (
    'Below is an instruction that describes a task, paired with an input that provides further context. ' +
    'Write a response that appropriately completes the request.\n\n' +
    `### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:`
  )
}
