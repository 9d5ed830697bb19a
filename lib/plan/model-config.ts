import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { RecipeError } from '../errors.js'
import { type ConfigJson, type LlamaConfig, parseConfig, readConfig, readConfigFile } from '../model/config.js'
import { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { defaultMaxLength, type Recipe } from '../train/recipe-schema.js'
import { packageRoot } from '../version.js'

const presets = path.join(packageRoot, 'recipes', 'configs')

/** The models of this package's recipes. */
const recipeModels: Record<string, string> = { 'openalpaca-3b': 'open_llama_3b', 'openalpaca-7b': 'open_llama_7b' }

/** The models whose config comes with this package, such as `open_llama_7b`. */
export function knownConfigs(): string[] {
  return readdirSync(presets).map((file) => path.basename(file, '.json'))
}

/** The sizes of `open_llama_7b`, `openlm-research/open_llama_7b`, or `open_llama_7b_v2`, which is the same size. */
function presetOf(name: string): LlamaConfig | undefined {
  const [last] = path.basename(name).split('@')
  const known = knownConfigs().find((preset) => last === preset || last === `${preset}_v2`)
  if (!known) return undefined
  return parseConfig(JSON.parse(readFileSync(path.join(presets, `${known}.json`), 'utf8')) as ConfigJson, known)
}

/** The vocabulary size of a new model's tokenizer, if it is available. */
async function tokenizerSize(directory?: string): Promise<number | undefined> {
  if (directory === undefined || !existsSync(directory)) return undefined
  return (await LlamaTokenizer.fromPretrained(directory)).vocabSize
}

/**
 * The config of the model that a recipe trains; its weights are not needed.
 * @param given a config.json, a model directory, or the name of a known model, in place of the recipe's
 * @throws {RecipeError} for a model whose config is unknown
 */
export async function planConfig(recipe: Recipe, given?: string): Promise<{ name: string; config: LlamaConfig }> {
  const asked = given ?? recipe.model_path
  if (asked === undefined && recipe.model) {
    const { max_position_embeddings = recipe.max_length ?? defaultMaxLength } = recipe.model
    const vocab_size = recipe.model.vocab_size ?? (await tokenizerSize(recipe.tokenizer_path))
    if (vocab_size === undefined) {
      throw new RecipeError('the vocabulary is not known: add --model.vocab_size N, or --tokenizer_path DIR')
    }
    return { name: recipe.name, config: parseConfig({ ...recipe.model, vocab_size, max_position_embeddings }, 'model') }
  }
  const name = asked ?? recipeModels[recipe.name]
  if (name === undefined) {
    throw new RecipeError(
      `no model to plan for: add --config FILE, a config.json, or one of ${knownConfigs().join(', ')}`,
    )
  }
  if (name.endsWith('.json')) return { name, config: await readConfigFile(name, '--config: expected a config.json') }
  if (existsSync(name)) return { name: path.basename(path.resolve(name)), config: await readConfig(name) }
  const config = presetOf(name)
  if (config) return { name: path.basename(name), config }
  throw new RecipeError(
    `${name} is neither a local directory nor one of the known configs (${knownConfigs().join(', ')}): pass --config FILE`,
  )
}
