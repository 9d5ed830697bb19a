import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { SentencePieceProcessor } from '@agnai/sentencepiece-js'
import { checkOptions, checkText, shown } from '../arguments.js'
import { TokenizerError } from '../errors.js'
import { resolveModelPath } from '../hub/download.js'
import { isLfsPointer, lfsAdvice } from '../io/lfs.js'
import type { ChatTemplates } from './chat-templates.js'
import { DecodeStream, type DecodeTable } from './decode-stream.js'
import { PieceType, readSentencePieceModel, type SentencePieceModel } from './sentencepiece-model.js'
import { addedTokens, readTokenizerConfig, specialToken, type TokenizerConfig } from './tokenizer-config.js'

/** Options of encoding. */
export interface EncodeOptions {
  /**
   * By default BOS is added and EOS is not, the form in which prompts are trained and sampled here. True: as
   * `add_bos_token` and `add_eos_token` of tokenizer_config.json say, as in Transformers. False: neither.
   */
  addSpecialTokens?: boolean
}

/** Options of decoding. */
export interface DecodeOptions {
  /** Skip BOS, EOS, UNK, PAD and the other special tokens instead of writing them as `</s>`. @default true */
  skipSpecialTokens?: boolean
}

/**
 * The SentencePiece tokenizer of a LLaMA checkpoint, from its `tokenizer.model`. Text is never searched for special
 * tokens: a `</s>` in user input is four characters of text.
 *
 * It needs no `dispose()`: the model is in separate WASM memory, which is garbage-collected with the object.
 */
export class LlamaTokenizer {
  /** Starts a text. */
  readonly bosTokenId: number
  /** Ends a text. */
  readonly eosTokenId: number
  /** Stands for text outside the vocabulary. */
  readonly unkTokenId: number
  /** Pads batches in other programs; this package does not use it. */
  readonly padTokenId: number | undefined
  /** Number of ids, including tokens added after those of `tokenizer.model`. */
  readonly vocabSize: number

  readonly #processor: SentencePieceProcessor
  readonly #modelBytes: Buffer
  #config: TokenizerConfig
  readonly #table: DecodeTable

  private constructor(
    processor: SentencePieceProcessor,
    modelBytes: Buffer,
    model: SentencePieceModel,
    config: TokenizerConfig,
  ) {
    this.#processor = processor
    this.#modelBytes = modelBytes
    this.#config = config

    const idOf = new Map(model.pieces.map((piece, id) => [piece.text, id]))
    const added = addedTokens(config, idOf)
    for (const [id, text] of added) idOf.set(text, id)
    const special = (key: 'bos_token' | 'eos_token' | 'unk_token', idInModel: number): number => {
      const text = specialToken(config, key)
      const id = text === undefined ? idInModel : idOf.get(text)
      if (id !== undefined && id >= 0) return id
      throw new TokenizerError(
        text === undefined
          ? `the tokenizer has no ${key}: name one in tokenizer_config.json`
          : `the ${key} ${JSON.stringify(text)} of tokenizer_config.json is not in tokenizer.model: use the files of one model`,
      )
    }
    this.bosTokenId = special('bos_token', model.bosId)
    this.eosTokenId = special('eos_token', model.eosId)
    this.unkTokenId = special('unk_token', model.unkId)
    const pad = specialToken(config, 'pad_token')
    this.padTokenId = pad !== undefined ? idOf.get(pad) : model.padId >= 0 ? model.padId : undefined
    this.vocabSize = Math.max(model.pieces.length, ...[...added.keys()].map((id) => id + 1))

    const specialIds = new Set([this.bosTokenId, this.eosTokenId, this.unkTokenId, ...config.specialAddedIds])
    if (this.padTokenId !== undefined) specialIds.add(this.padTokenId)
    for (const [id, { type }] of model.pieces.entries()) {
      if (type === PieceType.Control || type === PieceType.Unknown) specialIds.add(id)
    }
    this.#table = { model, addedTokens: added, specialIds }
  }

  /**
   * Reads `tokenizer.model` from a model directory, or from a model on the Hub (`owner/name`), and
   * `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` if they exist.
   * @throws {TokenizerError} for a file that is missing or damaged, or files that contradict each other
   */
  static async fromPretrained(modelPath: string): Promise<LlamaTokenizer> {
    checkText('fromPretrained: modelPath', modelPath)
    const dir = await resolveModelPath(modelPath, { parts: 'tokenizer' })
    const path = join(dir, 'tokenizer.model')
    const bytes = await readFile(path).catch((cause) => {
      throw new TokenizerError(
        cause.code === 'ENOENT'
          ? `${path} does not exist: name a model directory that holds the SentencePiece tokenizer.model (a tokenizer.json is not enough)`
          : `${path} cannot be read: ${cause.message}`,
        { cause },
      )
    })
    if (isLfsPointer(bytes)) throw new TokenizerError(lfsAdvice(path))
    if (/^[A-Za-z0-9+/]+=* \d+\n/.test(bytes.subarray(0, 200).toString('latin1'))) {
      throw new TokenizerError(
        `${path} is a tiktoken vocabulary, as Llama 3 has it, but only SentencePiece models are supported: use a model with one, such as OpenLLaMA or Llama 2`,
      )
    }
    const refuse = (why: string, cause?: unknown): TokenizerError =>
      new TokenizerError(`${path} is not a SentencePiece model (${why}): download it again`, { cause })
    let model: SentencePieceModel
    try {
      model = readSentencePieceModel(bytes)
    } catch (cause) {
      throw refuse(cause instanceof Error ? cause.message : String(cause), cause)
    }
    const processor = new SentencePieceProcessor()
    await processor.load(path)
    const status = processor.processor.status()
    const loaded = status.ToString()
    status.delete()
    if (loaded !== 'OK') throw refuse(loaded)
    return new LlamaTokenizer(processor, bytes, model, await readTokenizerConfig(dir))
  }

  /** Encodes a text to ids. A lone surrogate, which has no UTF-8, is read as U+FFFD. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    checkText('encode: text', text)
    checkOptions('encode', options, ['addSpecialTokens'])
    const { addSpecialTokens } = options
    // The WASM string conversion joins a lone surrogate with the character after it.
    const ids = this.#processor.encodeIds(text.replace(/\p{Surrogate}/gu, '\uFFFD'))
    if (addSpecialTokens === false) return ids
    if (addSpecialTokens === undefined || this.#config.addBosToken) ids.unshift(this.bosTokenId)
    if (addSpecialTokens && this.#config.addEosToken) ids.push(this.eosTokenId)
    return ids
  }

  /**
   * Decodes ids to text like SentencePiece and Transformers: without the leading space added in encoding.
   *
   * An id without a token, as in a padded vocabulary, adds no text.
   * @throws {RangeError} for a value that is not an id
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    if (typeof ids === 'string' || typeof ids?.[Symbol.iterator] !== 'function') {
      throw new TypeError(`decode: expected a list of token ids, got ${shown(ids)}`)
    }
    const stream = this.createDecodeStream(options)
    return stream.push(ids) + stream.flush()
  }

  /** Decodes ids as they are generated: `push` each id, print the returned text, and `flush` at the end. */
  createDecodeStream(options: DecodeOptions = {}): DecodeStream {
    checkOptions('decode', options, ['skipSpecialTokens'])
    return new DecodeStream(this.#table, options.skipSpecialTokens ?? true)
  }

  /** Whether an id has a token; in a padded vocabulary some have none. */
  hasToken(id: number): boolean {
    return this.#table.model.pieces[id] !== undefined || this.#table.addedTokens.has(id)
  }

  /** The Jinja template that other programs render chats with, if the model has one. */
  get chatTemplate(): string | undefined {
    return this.#config.chatTemplates.get('default')
  }

  /** Replaces all templates of the files. */
  set chatTemplate(template: string) {
    this.#config = {
      ...this.#config,
      chatTemplates: new Map([['default', template]]),
      chatTemplateFiles: [],
      hasTemplateDirectory: false,
      // `legacy`: as `encode` does, Transformers adds a space before the text that follows BOS.
      source: { ...this.#config.source, chat_template: template, legacy: true },
    }
  }

  /** @internal The full contents of the files, for writing the tokenizer in another format. */
  get contents(): DecodeTable & { addBosToken: boolean; addEosToken: boolean; chatTemplates: ChatTemplates } {
    const { addBosToken, addEosToken, chatTemplates } = this.#config
    return { ...this.#table, addBosToken, addEosToken, chatTemplates }
  }

  /**
   * Rows that an embedding needs for training and generation: the ids of texts, BOS, and EOS. Higher ids, such as that
   * of a padding token, never occur.
   */
  get requiredRows(): number {
    const inText = [PieceType.Normal, PieceType.Unknown, PieceType.UserDefined, PieceType.Byte]
    const { pieces } = this.#table.model
    let rows = pieces.length
    while (rows > 0 && !inText.includes(pieces[rows - 1].type)) rows--
    return Math.max(rows, this.bosTokenId + 1, this.eosTokenId + 1)
  }

  /** The files that Transformers expects of this tokenizer, by name. */
  files(): { name: string; data: Uint8Array | string }[] {
    const json = (value: object): string => `${JSON.stringify(value, null, 2)}\n`
    const text = (id: number): string => this.#table.addedTokens.get(id) ?? this.#table.model.pieces[id].text
    const tokens = {
      bos_token: text(this.bosTokenId),
      eos_token: text(this.eosTokenId),
      unk_token: text(this.unkTokenId),
      ...(this.padTokenId === undefined ? {} : { pad_token: text(this.padTokenId) }),
    }
    // Unused keys (chat_template, legacy, …) are kept, except those that name files that are not saved.
    const { auto_map, tokenizer_file, ...kept } = this.#config.source
    const { chatTemplateFiles, hasTemplateDirectory, chatTemplates } = this.#config
    const templates = [...chatTemplates].map(([name, template]) => ({ name, template }))
    const config = {
      sp_model_kwargs: {},
      ...kept,
      add_bos_token: this.#config.addBosToken,
      add_eos_token: this.#config.addEosToken,
      ...tokens,
      // Merges a directory of templates into one file.
      ...(hasTemplateDirectory && { chat_template: templates }),
      clean_up_tokenization_spaces: false,
      tokenizer_class: 'LlamaTokenizer',
    }
    const added = Object.fromEntries([...this.#table.addedTokens].map(([id, token]) => [token, id]))
    return [
      { name: 'tokenizer.model', data: this.#modelBytes },
      { name: 'special_tokens_map.json', data: json(tokens) },
      { name: 'tokenizer_config.json', data: json(config) },
      ...(this.#table.addedTokens.size > 0 ? [{ name: 'added_tokens.json', data: json(added) }] : []),
      ...(hasTemplateDirectory ? [] : chatTemplateFiles),
    ]
  }

  /** Writes `files` into a directory, and creates it if it is missing. */
  async save(dir: string): Promise<void> {
    await mkdir(dir, { recursive: true })
    for (const { name, data } of this.files()) await writeFile(join(dir, name), data)
  }
}

/** A sentence about the tokens beyond the rows of an embedding; undefined if the rows suffice. */
export function describeSurplus(tokenizer: LlamaTokenizer, rows: number): string | undefined {
  const { requiredRows, bosTokenId, eosTokenId, contents } = tokenizer
  if (requiredRows <= rows) return undefined
  const pieces = contents.model.pieces.length
  if (pieces > rows) return `the tokenizer.model has ${pieces} pieces, and the embedding ${rows} rows`
  const [name, id] = eosTokenId >= rows ? ['eos_token', eosTokenId] : ['bos_token', bosTokenId]
  return `the ${name} has the id ${id}, and the embedding ${rows} rows`
}
