import { TokenizerError } from '../errors.js'
import type { GgufValue } from '../formats/gguf/gguf-writer.js'
import type { ChatTemplates } from './chat-templates.js'
import { ModelType, PieceType } from './sentencepiece-model.js'
import type { LlamaTokenizer } from './tokenizer.js'

/** The scores that llama.cpp's converter gives to tokens that SentencePiece doesn't have. */
const addedScore = -1000
const unusedScore = -10000

/**
 * A tokenizer as GGUF metadata (`tokenizer.ggml.*`), as llama.cpp's convert_hf_to_gguf.py writes it.
 * @param vocabSize rows of the model's embedding; ids without a token become `[PAD<id>]`, tokens beyond it are dropped
 * @param eosTokenIds all ids that end generation
 * @throws {TokenizerError} for a SentencePiece model that is not BPE, which llama.cpp would tokenize differently
 */
export function ggufTokenizer(
  tokenizer: LlamaTokenizer,
  vocabSize: number,
  eosTokenIds: readonly number[],
): Map<string, GgufValue> {
  const { model, addedTokens, specialIds, addBosToken, addEosToken, chatTemplates } = tokenizer.contents
  if (model.modelType !== ModelType.Bpe) {
    const name = ModelType[model.modelType] ?? model.modelType
    throw new TokenizerError(
      `the tokenizer.model is a SentencePiece model of type ${name}; a GGUF file for LLaMA supports only BPE`,
    )
  }
  const [tokens, scores, types]: [string[], number[], PieceType[]] = [[], [], []]
  for (let id = 0; id < vocabSize; id++) {
    const piece = model.pieces[id]
    const added = addedTokens.get(id)
    const isListedSpecial = specialIds.has(id) && (!piece || piece.type === PieceType.Normal)
    tokens.push(added ?? piece?.text ?? `[PAD${id}]`)
    scores.push(added === undefined ? (piece?.score ?? unusedScore) : addedScore)
    if (isListedSpecial) types.push(PieceType.Control)
    else if (added !== undefined) types.push(PieceType.UserDefined)
    else types.push(piece?.type ?? PieceType.Unused)
  }
  const id = (value: number): GgufValue => ({ type: 'uint32', value })
  const flag = (value: boolean): GgufValue => ({ type: 'bool', value })
  const { bosTokenId, eosTokenId, unkTokenId, padTokenId } = tokenizer
  // llama.cpp stops at any of these three, whatever their meaning in a chat.
  const [endOfTurn, endOfMessage] = eosTokenIds.filter((end) => end !== eosTokenId && end >= 0 && end < vocabSize)
  return new Map<string, GgufValue>([
    ['tokenizer.ggml.model', { type: 'string', value: 'llama' }],
    ['tokenizer.ggml.pre', { type: 'string', value: 'default' }],
    ['tokenizer.ggml.tokens', { type: 'array', of: 'string', value: tokens }],
    ['tokenizer.ggml.scores', { type: 'array', of: 'float32', value: scores }],
    ['tokenizer.ggml.token_type', { type: 'array', of: 'int32', value: types }],
    ['tokenizer.ggml.bos_token_id', id(bosTokenId)],
    ['tokenizer.ggml.eos_token_id', id(eosTokenId)],
    ['tokenizer.ggml.unknown_token_id', id(unkTokenId)],
    ...(padTokenId === undefined || padTokenId >= vocabSize
      ? []
      : [['tokenizer.ggml.padding_token_id', id(padTokenId)] as const]),
    ...(endOfTurn === undefined ? [] : [['tokenizer.ggml.eot_token_id', id(endOfTurn)] as const]),
    ...(endOfMessage === undefined ? [] : [['tokenizer.ggml.eom_token_id', id(endOfMessage)] as const]),
    ['tokenizer.ggml.add_bos_token', flag(addBosToken)],
    ['tokenizer.ggml.add_eos_token', flag(addEosToken)],
    ['tokenizer.ggml.add_space_prefix', flag(model.addDummyPrefix)],
    ['tokenizer.ggml.remove_extra_whitespaces', flag(model.removeExtraWhitespaces)],
    ...chatTemplateKeys(chatTemplates),
  ])
}

/**
 * As gguf-py writes them: the default template, and the others under their names reduced to characters allowed in keys.
 */
function chatTemplateKeys(templates: ChatTemplates): [string, GgufValue][] {
  const value = (template: string): GgufValue => ({ type: 'string', value: template })
  const main = templates.get('default')
  const named = [...templates]
    .filter(([name]) => name !== '' && name !== 'default')
    .map(([name, template]) => [name.replace(/[^a-zA-Z0-9]/g, '_'), template] as const)
  return [
    ...named.map(([name, template]): [string, GgufValue] => [`tokenizer.chat_template.${name}`, value(template)]),
    ...(named.length > 0
      ? [
          ['tokenizer.chat_templates', { type: 'array', of: 'string', value: named.map(([name]) => name) }] as [
            string,
            GgufValue,
          ],
        ]
      : []),
    ...(main === undefined ? [] : [['tokenizer.chat_template', value(main)] as [string, GgufValue]]),
  ]
}
