import { type Command, Option } from 'commander'
import { parse } from 'yaml'
import { z } from 'zod'
import { readDeepSpeedConfig } from '../train/deepspeed.js'
import { aliases } from '../train/foreign-keys.js'
import { loadRecipe, type RecipeLayer } from '../train/recipe.js'
import { expectation, modelKeys, type Recipe, recipeGroups, schemaOf } from '../train/recipe-schema.js'
import { UsageError } from './failure.js'

/** Declares every recipe key, and every key of `model`, as a flag of the command. */
export function addRecipeFlags(command: Command): void {
  for (const [group, fields] of Object.entries(recipeGroups)) {
    for (const key of Object.keys(fields)) command.addOption(recipeOption(key, `${group}:`))
  }
  for (const key of modelKeys) command.addOption(recipeOption(`model.${key}`, 'A new model:'))
  for (const [name, key] of Object.entries(aliases)) {
    command.addOption(new Option(`--${name} ${placeholder(key, schemaOf(key)!)}`).hideHelp())
  }
}

function recipeOption(key: string, group: string): Option {
  const schema = schemaOf(key)!
  const fallback = schema.safeParse(undefined).data
  const hint = Array.isArray(fallback) || fallback === undefined ? '' : ` (default: ${shortDefault(fallback)})`
  return new Option(`--${key} ${placeholder(key, schema)}`, `${schema.description}${hint}`).helpGroup(group)
}

function shortDefault(value: unknown): string {
  return typeof value === 'number' && value !== 0 && value < 1e-3 ? value.toExponential() : String(value)
}

interface JsonSchema {
  type?: string
  enum?: string[]
}

const jsonSchema = (schema: z.ZodType) => z.toJSONSchema(schema, { io: 'input' }) as JsonSchema

function placeholder(key: string, schema: z.ZodType): string {
  if (key === 'resume') return '[path]' // without a path, the last checkpoint
  const { type, enum: choices } = jsonSchema(schema)
  if (choices) return `<${choices.join('|')}>`
  if (type === 'array') return '<text...>'
  if (type === 'object') return '<map>'
  if (type === 'boolean') return '[true|false]'
  if (type === 'string') return key === 'data_path' ? '<file>' : key.endsWith('_path') ? '<dir>' : '<text>'
  return '<number>'
}

/**
 * The recipe keys among a command's parsed options, each converted to the type of its key.
 * @throws {UsageError} for a value that the key does not accept
 */
export function recipeFlagLayer(options: Record<string, unknown>): RecipeLayer {
  const values: Record<string, unknown> = {}
  const model: Record<string, unknown> = {}
  const flags = new Map<string, string>()
  for (const [name, given] of Object.entries(options)) {
    const key = Object.hasOwn(aliases, name) ? aliases[name] : name
    const schema = schemaOf(key)
    if (!schema) continue
    const other = flags.get(key)
    if (other !== undefined) throw new UsageError(`--${name} and --${other} are the same setting: keep one of them`)
    flags.set(key, name)
    const value = typedValue(name, key, schema, given)
    if (key.startsWith('model.')) model[key.slice('model.'.length)] = value
    else values[key] = value
  }
  if (Object.keys(model).length > 0) values.model = { ...(values.model as object | undefined), ...model }
  return { values, where: (key) => `--${flags.get(key) ?? key}` }
}

/** Converts a flag's text to the type of its key: text unchanged, numbers and maps read as YAML. */
function typedValue(name: string, key: string, schema: z.ZodType, given: unknown): unknown {
  if (given === true) return key === 'resume' ? 'auto' : true
  if (typeof given !== 'string' || jsonSchema(schema).type === 'string') return checked(name, schema, given)
  if (key === 'resume') return given === 'true' || given === 'false' ? given === 'true' : checked(name, schema, given)
  const value = yamlValue(given)
  if (key === 'model' && typeof value === 'string') {
    throw new UsageError(
      `--model is ${JSON.stringify(value)}; expected ${expectation(schema)}; for a model that exists, use --model_path ${value}`,
    )
  }
  // `null` resets to the default; a partial `model` is merged over a recipe's.
  return value === null || key === 'model' ? value : checked(name, schema, value)
}

function yamlValue(text: string): unknown {
  try {
    return parse(text)
  } catch {
    return text // and the key's validation reports the expected value
  }
}

function checked(name: string, schema: z.ZodType, value: unknown): unknown {
  if (schema.safeParse(value).success) return value
  throw new UsageError(`--${name} is ${JSON.stringify(value)}; expected ${expectation(schema)}`)
}

export interface TrainFlags extends Record<string, unknown> {
  recipe?: string
  /** Of `plan`: the model to plan for. */
  config?: string
  deepspeed?: string
}

/**
 * The recipe from the flags of `train`. Flags take precedence over the DeepSpeed file, that over the recipe file, and
 * that over the defaults.
 * @param say called with each DeepSpeed setting that is handled differently
 */
export function recipeFromFlags(flags: TrainFlags, say: (note: string) => void): Recipe {
  const layers = [recipeFlagLayer(flags)]
  if (flags.deepspeed !== undefined) {
    const { layer, notes } = readDeepSpeedConfig(flags.deepspeed)
    for (const note of notes) say(`${flags.deepspeed}: ${note}`)
    layers.unshift(layer)
  }
  // With the user's own model or data, the quickstart is not the default recipe.
  const { model_path, data_path } = layers.at(-1)!.values
  const isOwn = model_path !== undefined || data_path !== undefined || flags.config !== undefined
  return loadRecipe(flags.recipe ?? (isOwn ? undefined : 'quickstart'), layers)
}
