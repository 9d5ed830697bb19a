import { shown } from '../arguments.js'
import type { LlamaForCausalLM } from '../causal-lm.js'
import type { Instruction } from '../data/instructions.js'
import { encodePrompt } from '../data/prompt.js'
import { NonFiniteError, ParallelError } from '../errors.js'
import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import type { TrainEvent } from './events.js'

const promptsAtOnce = 32

/**
 * The model's greedy answers to instructions, in order, none longer than the longest expected one (a longer one would
 * be wrong anyway).
 * @throws {Error} for an aborted `signal`: its reason
 */
export async function answerInstructions(
  model: LlamaForCausalLM,
  tokenizer: LlamaTokenizer,
  rows: readonly Instruction[],
  { signal }: { signal?: AbortSignal } = {},
): Promise<string[]> {
  const lengths = rows.map(({ output }) => tokenizer.encode(output, { addSpecialTokens: false }).length)
  const maxNewTokens = 1 + lengths.reduce((most, length) => Math.max(most, length), 0)
  const answers: string[] = []
  for (let start = 0; start < rows.length; start += promptsAtOnce) {
    const prompts = rows.slice(start, start + promptsAtOnce).map((row) => encodePrompt(tokenizer, row))
    const generated = await model.generate(prompts, { maxNewTokens, tokenizer, signal })
    answers.push(...generated.map((ids) => tokenizer.decode(ids).trim()))
  }
  return answers
}

/** A question from the recipe's `sample_prompts`. */
export interface SampleRequest {
  instruction: string
  input?: string
}

/**
 * Generates answers during training. A failed answer becomes a warning; only errors that end the run are thrown. After
 * `signal` is aborted, the remaining questions are skipped.
 */
export async function sampleAnswers(
  model: LlamaForCausalLM,
  tokenizer: LlamaTokenizer,
  requests: readonly (string | SampleRequest)[],
  { step, length, signal, emit }: { step: number; length: number; signal?: AbortSignal; emit: (e: TrainEvent) => void },
): Promise<void> {
  for (const request of requests) {
    const { instruction, input = '' } = typeof request === 'string' ? { instruction: request } : request
    const fail = (why: string) =>
      emit({ type: 'warning', step, message: `the sample ${shown(instruction)} has no answer: ${why}` })
    try {
      const ids = encodePrompt(tokenizer, { instruction, input })
      const room = model.config.maxPositionEmbeddings - ids.length
      if (room < 1) {
        fail(`its prompt of ${ids.length} tokens fills the model's context of ${model.config.maxPositionEmbeddings}`)
        continue
      }
      const output = await model.generate(ids, { maxNewTokens: Math.min(length, room), tokenizer, signal })
      const text = tokenizer.decode(output).trim()
      emit({ type: 'sample', step, instruction, ...(input && { input }), output: text })
    } catch (error) {
      if (isAbort(error)) return
      if (endsTraining(error, model)) throw error
      fail((error as Error).message)
    }
  }
}

/** Whether an error comes from an aborted AbortSignal. */
export function isAbort(error: unknown): boolean {
  return (error as Error | undefined)?.name === 'AbortError'
}

/**
 * Whether training cannot continue after an error in generation: the device or another rank is lost, or the ranks that
 * generate together do not all have the same error and would wait for each other.
 */
export function endsTraining(error: unknown, model: LlamaForCausalLM): boolean {
  if (error instanceof ParallelError || (error as { code?: string }).code === 'DEVICE_LOST') return true
  return model.parameters.group.stage === 3 && !(error instanceof NonFiniteError)
}
