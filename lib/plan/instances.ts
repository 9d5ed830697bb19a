/** The lengths of a plan's instances: counted, or estimated without a tokenizer. */
import { IGNORE_INDEX, type Instance } from '../data/instances.js'
import type { Instruction } from '../data/instructions.js'
import { formatPrompt } from '../data/prompt.js'

/** English text, with OpenLLaMA's tokenizer. */
const charactersPerToken = 4

/** An instance's tokens, and the tokens of its answer, which are learned. */
interface Lengths {
  tokens: number
  answer: number
}

/** An instance of the given length, with ids of 0. */
function instanceOf({ tokens, answer }: Lengths, id: number, maxLength: number): Instance {
  const labels = new Int32Array(Math.min(tokens, maxLength))
  return { id, inputIds: new Int32Array(labels.length), labels: labels.fill(IGNORE_INDEX, 0, tokens - answer) }
}

/** Estimated from the number of characters of prompts and answers. Skips those whose prompt fills `maxLength`. */
export function estimatedInstances(rows: readonly Instruction[], maxLength: number): Instance[] {
  const lengths = rows.map((row): Lengths => {
    const [prompt, answer] = [formatPrompt(row), row.output].map(({ length }) => Math.ceil(length / charactersPerToken))
    return { tokens: prompt + answer + 2, answer: answer + 1 }
  })
  return lengths
    .filter(({ tokens, answer }) => tokens - answer < maxLength)
    .map((length, id) => instanceOf(length, id, maxLength))
}

/**
 * databricks-dolly-15k in the prompt templates, at four characters per token: the quantiles of instance length in steps
 * of 5 %, from the shortest. 38 % of the tokens belong to answers.
 */
const dolly = {
  count: 15_001,
  quantiles: [
    [0, 40],
    [0.05, 57],
    [0.25, 88],
    [0.5, 155],
    [0.75, 285],
    [0.9, 482],
    [0.95, 678],
    [0.99, 1387],
    [1, 4000],
  ],
  answers: 0.38,
}

/** `count` instances with dolly's distribution of lengths. */
export function dollyInstances(maxLength: number, count = dolly.count): Instance[] {
  return Array.from({ length: count }, (_, id) => {
    const share = count === 1 ? 0.5 : id / (count - 1)
    const upper = Math.max(
      1,
      dolly.quantiles.findIndex(([quantile]) => quantile >= share),
    )
    const [[from, low], [to, high]] = [dolly.quantiles[upper - 1], dolly.quantiles[upper]]
    const tokens = Math.min(maxLength, Math.round(low + ((share - from) / (to - from)) * (high - low)))
    return instanceOf({ tokens, answer: Math.max(1, Math.round(dolly.answers * tokens)) }, id, maxLength)
  })
}
