import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { TokenizerError } from '../errors.js'
import { forError } from '../format.js'
import { isLfsPointer, lfsAdvice } from '../io/lfs.js'
import { parseJson } from '../json.js'
import { type ChatTemplateFiles, type ChatTemplates, readChatTemplates, templatesIn } from './chat-templates.js'

// A special token is its text, or an object with Transformers' stripping options. Old conversions of LLaMA write '' for
// "the one in tokenizer.model".
const Token = z.union([z.string(), z.object({ content: z.string() }).transform((token) => token.content)]).nullish()
const SpecialTokens = z.object({ bos_token: Token, eos_token: Token, unk_token: Token, pad_token: Token })
const TokenizerConfigFile = SpecialTokens.loose().extend({
  add_bos_token: z.boolean().nullish(),
  add_eos_token: z.boolean().nullish(),
  added_tokens_decoder: z
    .record(z.string().regex(/^\d+$/), z.object({ content: z.string(), special: z.boolean().default(false) }))
    .nullish(),
})
const AddedTokensFile = z.record(z.string(), z.number().int().nonnegative())

type SpecialTokenKey = keyof z.infer<typeof SpecialTokens>

/** The merged contents of the tokenizer's JSON files. */
export interface TokenizerConfig {
  addBosToken: boolean
  addEosToken: boolean
  /** The original tokenizer_config.json, including keys that this package ignores. */
  source: Record<string, unknown>
  specialTokens: z.infer<typeof SpecialTokens>
  /** Tokens by id as listed in the files, including some that `tokenizer.model` also has. */
  listedTokens: Map<number, string>
  /** The listed ids that the files mark as special. */
  specialAddedIds: Set<number>
  /** By name, from the files that Transformers reads them from. */
  chatTemplates: ChatTemplates
  /** The separate chat template files, unchanged. */
  chatTemplateFiles: ChatTemplateFiles['files']
  /** Whether some of the templates come from a directory. */
  hasTemplateDirectory: boolean
}

/** Reads `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, each if it exists. */
export async function readTokenizerConfig(dir: string): Promise<TokenizerConfig> {
  const config: z.infer<typeof TokenizerConfigFile> =
    (await readJson(join(dir, 'tokenizer_config.json'), TokenizerConfigFile)) ?? {}
  const map = (await readJson(join(dir, 'special_tokens_map.json'), SpecialTokens)) ?? {}
  const added = (await readJson(join(dir, 'added_tokens.json'), AddedTokensFile)) ?? {}
  const decoder = Object.entries(config.added_tokens_decoder ?? {})
  const { files, hasDirectory, jinja, json } = await readChatTemplates(dir)
  const ownTemplates = templatesIn(config.chat_template)
  return {
    addBosToken: config.add_bos_token ?? true,
    addEosToken: config.add_eos_token ?? false,
    source: config,
    specialTokens: {
      bos_token: config.bos_token || map.bos_token,
      eos_token: config.eos_token || map.eos_token,
      unk_token: config.unk_token || map.unk_token,
      pad_token: config.pad_token || map.pad_token,
    },
    listedTokens: new Map([
      ...Object.entries(added).map(([text, id]): [number, string] => [id, text]),
      ...decoder.map(([id, token]): [number, string] => [Number(id), token.content]),
    ]),
    specialAddedIds: new Set(decoder.filter(([, token]) => token.special).map(([id]) => Number(id))),
    chatTemplates: [jinja, ownTemplates, json].find(({ size }) => size > 0) ?? new Map(),
    chatTemplateFiles: files,
    hasTemplateDirectory: hasDirectory,
  }
}

/** The text of a special token, or undefined if the files leave it to `tokenizer.model`. */
export function specialToken(config: TokenizerConfig, key: SpecialTokenKey): string | undefined {
  return config.specialTokens[key] || undefined
}

/**
 * The tokens after the model's pieces, by id. A padding token without an id takes the next free one, as in
 * Transformers; thus `[PAD]` becomes 32000.
 */
export function addedTokens(config: TokenizerConfig, idOf: ReadonlyMap<string, number>): Map<number, string> {
  const added = new Map([...config.listedTokens].filter(([id]) => id >= idOf.size).sort(([a], [b]) => a - b))
  const pad = specialToken(config, 'pad_token')
  if (pad !== undefined && !idOf.has(pad) && ![...added.values()].includes(pad)) {
    added.set(Math.max(idOf.size, ...[...added.keys()].map((id) => id + 1)), pad)
  }
  return added
}

async function readJson<Schema extends z.ZodType>(path: string, schema: Schema): Promise<z.infer<Schema> | undefined> {
  let bytes: Uint8Array
  try {
    bytes = await readFile(path)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new TokenizerError(`${path} cannot be read: ${(cause as Error).message}`, { cause })
  }
  if (isLfsPointer(bytes)) throw new TokenizerError(lfsAdvice(path))
  let value: unknown
  try {
    value = parseJson(bytes)
  } catch (cause) {
    throw new TokenizerError(`${path} is not valid JSON: download it again (${forError((cause as Error).message)})`, {
      cause,
    })
  }
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const { path: key, message } = result.error.issues[0]
  throw new TokenizerError(`${path}: ${forError(`${key.join('.') || 'the file'}: ${message}`)}`, {
    cause: result.error,
  })
}
