import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import type { LlamaConfig } from './config.js'

const list = (ids: readonly number[]) => (ids.length === 0 ? 'none' : ids.join(', '))
const same = (a: readonly number[], b: readonly number[]) =>
  a.every((id) => b.includes(id)) && b.every((id) => a.includes(id))

/**
 * Disagreements between config.json, generation_config.json, and tokenizer_config.json about the tokens that start and
 * end a text, one sentence each.
 */
export function specialTokenNotes(config: LlamaConfig, tokenizer?: LlamaTokenizer): string[] {
  const { json, generation, eosTokenIds, bosTokenId, vocabSize } = config
  const notes: string[] = []
  const configured = [json.eos_token_id ?? []].flat()
  if (generation?.eos_token_id !== undefined && json.eos_token_id != null && !same(configured, eosTokenIds)) {
    notes.push(
      `the end tokens are ${list(eosTokenIds)} in generation_config.json and ${list(configured)} in config.json: ` +
        'generation_config.json decides',
    )
  }
  const beyond = eosTokenIds.filter((id) => id < 0 || id >= vocabSize)
  if (beyond.length > 0) notes.push(`the end token ${list(beyond)} is outside the vocabulary of ${vocabSize}`)
  if (!tokenizer) return notes
  if (!eosTokenIds.includes(tokenizer.eosTokenId)) notes.push(unlistedEndToken(config, tokenizer))
  if (bosTokenId !== tokenizer.bosTokenId) {
    notes.push(
      `the token that begins a text is ${tokenizer.bosTokenId} in the tokenizer and ${bosTokenId} in the model's files: ` +
        "prompts begin with the tokenizer's",
    )
  }
  const { addBosToken, addEosToken } = tokenizer.contents
  for (const [key, differs] of [
    ['add_bos_token: false', !addBosToken],
    ['add_eos_token: true', addEosToken],
  ]) {
    if (differs) {
      notes.push(
        `tokenizer_config.json has ${key}: programs that heed it ask with other prompts than training does here`,
      )
    }
  }
  return notes
}

/** The warning that training ends answers with a token that does not end generation. */
export function unlistedEndToken({ eosTokenIds }: LlamaConfig, tokenizer: LlamaTokenizer): string {
  return (
    `the tokenizer's end token ${tokenizer.eosTokenId}, which training puts behind every answer, is not among the model's end ` +
    `tokens (${list(eosTokenIds)})`
  )
}
