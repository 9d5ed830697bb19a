import { resolveField } from './fields.js'

/** What a prompt is made of. */
export interface PromptFields {
  /** What to do. */
  instruction: string
  /** Context or input for the task; empty or left out, the prompt has no such part. */
  input?: string | null
  /** Another name of `input`, which dolly has. */
  context?: string | null
}

/**
 * The prompt that OpenAlpaca and Stanford Alpaca train and sample with. It ends in `### Response:` with no newline; the
 * answer is tokenized apart.
 */
export function formatPrompt(fields: PromptFields): string {
  const { instruction } = fields
  const input = resolveField(fields, 'input', () => 'formatPrompt') ?? ''
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
