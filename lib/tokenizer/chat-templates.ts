import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { TokenizerError } from '../errors.js'
import { isLfsPointer, lfsAdvice } from '../io/lfs.js'

/**
 * The files in which Transformers looks for chat templates besides tokenizer_config.json; the last is for processors.
 */
export const CHAT_TEMPLATE_FILES = ['chat_template.jinja', 'chat_template.json'] as const
const DIRECTORY = 'additional_chat_templates'

/** Jinja templates by name; `default` is used if no name is given. */
export type ChatTemplates = ReadonlyMap<string, string>

/** The chat template files of a model directory. */
export interface ChatTemplateFiles {
  /** The files in the model directory itself, unchanged, to save with the tokenizer. */
  files: { name: string; data: string }[]
  /** Whether additional_chat_templates/ has more. */
  hasDirectory: boolean
  /** chat_template.jinja and additional_chat_templates/, which take precedence over tokenizer_config.json. */
  jinja: ChatTemplates
  /** chat_template.json, with the lowest precedence. */
  json: ChatTemplates
}

const Template = z.union([
  z.string().transform((template): [string, string][] => [['default', template]]),
  z
    .array(z.object({ name: z.string(), template: z.string() }))
    .transform((list) => list.map(({ name, template }): [string, string] => [name, template])),
  z.record(z.string(), z.string()).transform((record) => Object.entries(record)),
])

/** The templates in a value of `chat_template`: a text, or named ones. Anything else gives none. */
export function templatesIn(value: unknown): ChatTemplates {
  const parsed = Template.safeParse(value)
  return new Map(parsed.success ? parsed.data : [])
}

/** @throws {TokenizerError} for a file that cannot be read */
export async function readChatTemplates(directory: string): Promise<ChatTemplateFiles> {
  const jinja = new Map<string, string>()
  const read = async (name: string): Promise<string | undefined> => {
    const text = await readFile(join(directory, name), 'utf8').catch((cause) => {
      if (cause.code === 'ENOENT') return undefined
      throw new TokenizerError(`${join(directory, name)} cannot be read: ${cause.message}`, { cause })
    })
    if (text === undefined) return undefined
    if (isLfsPointer(text)) throw new TokenizerError(lfsAdvice(join(directory, name)))
    return text
  }
  const main = await read('chat_template.jinja')
  if (main !== undefined) jinja.set('default', main)
  const entries = await readdir(join(directory, DIRECTORY)).catch((): string[] => [])
  const more = entries.filter((name) => name.endsWith('.jinja')).sort()
  for (const name of more) {
    jinja.set(name.slice(0, -'.jinja'.length), (await read(`${DIRECTORY}/${name}`))!)
  }
  const text = await read('chat_template.json')
  const files = [
    ['chat_template.jinja', main],
    ['chat_template.json', text],
  ].flatMap(([name, data]) => (data === undefined ? [] : [{ name: name!, data }]))
  return {
    files,
    hasDirectory: more.length > 0,
    jinja,
    json: text === undefined ? new Map() : templatesIn(parse(text)),
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text).chat_template
  } catch {
    return undefined // it belongs to a processor, which text alone does not need
  }
}
