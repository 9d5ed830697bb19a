import { forTerminal } from '../format.js'
import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { countLabels, type Instance } from './instances.js'

const DIM = '\x1b[2m'
const GREEN = '\x1b[1;32m'
const RESET = '\x1b[0m'

/**
 * The first `count` instances as text that distinguishes learned from masked tokens: dim and bold green with `color`,
 * and always by the marks ‹masked› and ‹learned›.
 */
export function previewInstances(
  instances: readonly Instance[],
  tokenizer: LlamaTokenizer,
  count: number,
  { color = false }: { color?: boolean } = {},
): string {
  const paint = (text: string, learned: boolean): string => (color ? (learned ? GREEN : DIM) + text + RESET : text)
  return instances
    .slice(0, count)
    .map((instance) => {
      const runs = labelRuns(instance, tokenizer)
      const text = runs
        .map(({ text, learned }) => paint(`‹${learned ? 'learned' : 'masked'}›${text}`, learned))
        .join('')
      const { id, inputIds, isCut } = instance
      const cut = isCut ? ', cut at max_length: no end token' : ''
      return `instance ${id}: ${inputIds.length} tokens, ${countLabels(instance)} of them learned${cut}\n${text}\n`
    })
    .join('\n')
}

/** The instance's text in runs of tokens that are all learned or all masked; special tokens are written out. */
function labelRuns({ inputIds, labels }: Instance, tokenizer: LlamaTokenizer): { text: string; learned: boolean }[] {
  const stream = tokenizer.createDecodeStream({ skipSpecialTokens: false })
  const runs: { text: string; learned: boolean }[] = []
  for (const [t, id] of inputIds.entries()) {
    const learned = t > 0 && labels[t] >= 0
    if (runs.at(-1)?.learned !== learned) runs.push({ text: '', learned })
    runs.at(-1)!.text += stream.push(id)
  }
  if (runs.length > 0) runs.at(-1)!.text += stream.flush()
  return runs.map(({ text, learned }) => ({ text: forTerminal(text), learned }))
}
