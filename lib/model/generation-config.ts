import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { ConfigError } from '../errors.js'
import { forError } from '../format.js'
import { parseJson } from '../json.js'

const id = z.int()
const schema = z.looseObject({
  bos_token_id: id.nullish(),
  eos_token_id: z.union([id, z.array(id)]).nullish(),
  pad_token_id: id.nullish(),
})

/** A generation_config.json: special tokens, which take precedence over those of config.json, and any other keys. */
export type GenerationJson = z.infer<typeof schema>

/**
 * Reads a model directory's generation_config.json; undefined if there is none.
 * @throws {ConfigError} for an invalid file
 */
export async function readGenerationConfig(directory: string): Promise<GenerationJson | undefined> {
  const file = path.join(directory, 'generation_config.json')
  let bytes: Uint8Array
  try {
    bytes = await readFile(file)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new ConfigError(`${file} cannot be read: ${(cause as Error).message}`, { cause })
  }
  let json: unknown
  try {
    json = parseJson(bytes)
  } catch (cause) {
    throw new ConfigError(`${file} is not JSON: ${forError((cause as Error).message)}`, { cause })
  }
  const parsed = schema.safeParse(json)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new ConfigError(`${file}: ${forError(`${issue.path.join('.') || 'the file'}: ${issue.message}`)}`)
}

/** Ids as these files write them: a number for one, a list for several. */
export function oneOrList(ids: number[]): number | number[] {
  return ids.length === 1 ? ids[0] : ids
}
