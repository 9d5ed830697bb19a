import type { LlamaForCausalLM } from '../causal-lm.js'
import type { Instruction } from '../data/instructions.js'
import { encodePrompt } from '../data/prompt.js'
import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'

const promptsAtOnce = 32

/**
 * The model's greedy answers to instructions, in their order, none longer than the longest expected one (a longer one
 * would be wrong anyway).
 * @throws the reason of `signal`, once that is aborted
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
