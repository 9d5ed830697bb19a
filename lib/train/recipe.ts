import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isMap, isScalar, LineCounter, parseDocument, type YAMLMap } from 'yaml'
import { RecipeError } from '../errors.js'
import { nearest } from '../nearest.js'
import { packageRoot } from '../version.js'
import { adviceFor, aliases } from './foreign-keys.js'
import {
  defaultMaxLength,
  expectation,
  modelKeys,
  type Recipe,
  type RecipeInput,
  type RecipeKey,
  recipeKeys,
  recipeSchema,
  type SizedRecipe,
  schemaOf,
} from './recipe-schema.js'

/** Settings from one source; `where` locates a key (`my.yaml:7`, `--learning_rate`) for error messages. */
export interface RecipeLayer {
  values: Record<string, unknown>
  where(key: string): string
}

const builtInDirectory = join(packageRoot, 'recipes')

/** The built-in names for `--recipe`, such as `quickstart`. */
export function builtInRecipes(): string[] {
  return readdirSync(builtInDirectory)
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => file.slice(0, -'.yaml'.length))
    .sort()
}

/**
 * Reads a recipe and applies further settings on top.
 * @param nameOrPath a built-in recipe's name, or the path of a YAML file; undefined for the defaults alone
 * @param layers later ones win; null resets to the default, and `model` is merged key by key
 * @throws {RecipeError} for an unknown key (with the nearest known one) or a value of the wrong type or range, with its
 *   file and line or its flag
 */
export function loadRecipe(nameOrPath?: string, layers: RecipeLayer[] = []): Recipe {
  return resolveRecipe(nameOrPath === undefined ? layers : [readRecipeFile(nameOrPath), ...layers])
}

/** Pairs of keys for the same setting: a later layer that sets one of them resets the other. */
const rivals: [RecipeKey, RecipeKey][] = [
  ['model_path', 'model'],
  ['model', 'model_path'],
  ['data_path', 'dataset'],
  ['dataset', 'data_path'],
]

/**
 * The recipe with its `max_length`, or the default for a model with that context.
 * @throws {RecipeError} for a `max_length` longer than the context
 */
export function withMaxLength(recipe: Recipe, context: number): SizedRecipe {
  const { max_length = Math.min(defaultMaxLength, context) } = recipe
  if (max_length <= context) return { ...recipe, max_length }
  throw new RecipeError(
    `max_length ${max_length} is longer than the model's context of ${context}: lower it, or leave it out`,
  )
}

/** Merges layers, later ones winning, and fills in the defaults. */
export function resolveRecipe(layers: RecipeLayer[]): Recipe {
  const merged: Record<string, unknown> = {}
  const origin = new Map<string, RecipeLayer>()
  for (const layer of layers.map(withOurNames)) {
    for (const [key, rival] of rivals) {
      if (layer.values[key] != null && layer.values[rival] == null) delete merged[rival]
    }
    for (const [key, value] of Object.entries(layer.values)) {
      checkKey(layer, key)
      origin.set(key, layer)
      if (key === 'model' && isRecord(value)) {
        for (const inner of Object.keys(value)) {
          checkKey(layer, `model.${inner}`)
          origin.set(`model.${inner}`, layer)
        }
        merged.model = { ...(isRecord(merged.model) ? merged.model : {}), ...withoutNulls(value) }
      } else {
        merged[key] = value
      }
    }
  }
  const result = recipeSchema.safeParse(withoutNulls(merged))
  if (result.success) return result.data
  throw new RecipeError(explain(result.error.issues[0].path.map(String), merged, origin))
}

function withoutNulls(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null && value !== undefined))
}

/** The layer with other trainers' keys renamed to the equivalent recipe keys. */
function withOurNames(layer: RecipeLayer): RecipeLayer {
  const given = new Map<string, string>()
  const entries: [string, unknown][] = []
  for (const [name, value] of Object.entries(layer.values)) {
    const key = Object.hasOwn(aliases, name) ? aliases[name] : name
    const other = given.get(key)
    if (other !== undefined) {
      throw new RecipeError(`${layer.where(name)}: ${name} and ${other} are the same setting: keep one of them`)
    }
    given.set(key, name)
    entries.push([key, value])
  }
  return { values: Object.fromEntries(entries), where: (key) => layer.where(given.get(key) ?? key) }
}

function checkKey(layer: RecipeLayer, key: string): void {
  const known = key.startsWith('model.') ? modelKeys.map((name) => `model.${name}`) : recipeKeys
  if ((known as string[]).includes(key)) return
  const near = nearest(key, known)
  const hint =
    adviceFor(key, (name) => name) ?? (near ? `did you mean ${near}?` : 'openalpaca train --help lists them all')
  const others = Object.keys(layer.values).filter((other) => other !== key && !(known as string[]).includes(other))
  const more = others.length > 0 && !key.startsWith('model.') ? `; also unknown: ${others.join(', ')}` : ''
  throw new RecipeError(`${layer.where(key)}: unknown key ${key}; ${hint}${more}`)
}

/** Explains the error in the value at a path such as `['model', 'hidden_size']`. */
function explain(path: string[], values: Record<string, unknown>, origin: Map<string, RecipeLayer>): string {
  const isInner = path[0] === 'model' && path.length > 1
  const key = isInner ? `model.${path[1]}` : path[0]
  const value = isInner ? (values.model as Record<string, unknown>)[path[1]] : values[key]
  const layer = origin.get(key) ?? origin.get(path[0])
  const came = value === undefined ? 'is missing' : `is ${shown(value)}`
  const advice =
    key === 'model' && typeof value === 'string' ? `; for a model that exists, use model_path: ${value}` : ''
  return `${layer!.where(value === undefined ? path[0] : key)}: ${key} ${came}; expected ${expectation(schemaOf(key)!)}${advice}`
}

function shown(value: unknown): string {
  const text = JSON.stringify(value)
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

function readRecipeFile(nameOrPath: string): RecipeLayer {
  const isName = /^[\w.-]+$/.test(nameOrPath) && !/\.ya?ml$/.test(nameOrPath)
  const path = isName ? join(builtInDirectory, `${nameOrPath}.yaml`) : nameOrPath
  if (isName && !existsSync(path)) {
    const names = builtInRecipes()
    const near = nearest(nameOrPath, names)
    throw new RecipeError(
      `no recipe is called ${nameOrPath}; ${near ? `did you mean ${near}?` : `there are ${names.join(', ')}, or give the path of a YAML file`}`,
    )
  }
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new RecipeError(`cannot read the recipe ${path}: ${(cause as NodeJS.ErrnoException).code}`, { cause })
  }
  if (!isName) return parseRecipe(text, path)
  const layer = parseRecipe(text, `recipe ${nameOrPath}`)
  // Files of a built-in recipe are relative to the recipe; all other paths are relative to the working directory.
  const { tokenizer_path: tokenizer } = layer.values
  if (typeof tokenizer === 'string' && tokenizer.startsWith('./')) {
    layer.values.tokenizer_path = join(builtInDirectory, tokenizer)
  }
  return layer
}

/** Parses a recipe's YAML; error messages call the file `label`. */
export function parseRecipe(text: string, label: string): RecipeLayer {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines })
  const problem = document.errors[0]
  if (problem) {
    const [message] = problem.message.split(/ at line|\n/)
    throw new RecipeError(`${label}:${problem.linePos?.[0].line ?? 1}: not valid YAML: ${message}`, { cause: problem })
  }
  const root = document.contents
  if (root !== null && !isMap(root)) throw new RecipeError(`${label}:1: a recipe is a map of keys and values`)
  return {
    values: root === null ? {} : (document.toJS() as Record<string, unknown>),
    where: (key) => `${label}:${lines.linePos(keyOffset(root, key)).line}`,
  }
}

/** The offset of a key such as `learning_rate` or `model.hidden_size` in the file. */
function keyOffset(root: YAMLMap | null, key: string): number {
  let map: unknown = root
  let offset = 0
  for (const part of key.split('.')) {
    if (!isMap(map)) break
    const pair = map.items.find((item) => isScalar(item.key) && item.key.value === part)
    if (!pair) break
    offset = (isScalar(pair.key) && pair.key.range?.[0]) || 0
    map = pair.value
  }
  return offset
}

type CamelCase<S extends string> = S extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<CamelCase<Tail>>}` : S

/** A recipe in camel case, as in `new Trainer({ …, learningRate: 1e-4 })`. */
export type RecipeOptions = {
  [K in Exclude<RecipeKey, 'model'> as CamelCase<K>]: RecipeInput[K]
}

const camelCase = (key: string) => key.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())
const snakeCase = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
// Without `model`, the configuration of a new model: the trainer takes the model itself.
const optionKeys = new Map(recipeKeys.filter((key) => key !== 'model').map((key) => [camelCase(key), key]))

/**
 * Checks options such as `{ learningRate: 1e-4 }` and fills in the defaults.
 * @throws {RecipeError} as `loadRecipe` does
 */
export function recipeFromOptions(options: Partial<RecipeOptions>): Recipe {
  const values: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    const key = optionKeys.get(name)
    if (!key) {
      const known = adviceFor(snakeCase(name), camelCase)
      const near = nearest(name, optionKeys.keys())
      throw new RecipeError(`unknown option ${name}${known ? `; ${known}` : near ? `; did you mean ${near}?` : ''}`)
    }
    values[key] = value
  }
  return resolveRecipe([{ values, where: () => 'options' }])
}

/** The same recipe as options, without `model`. */
export function optionsFromRecipe(recipe: Recipe): RecipeOptions {
  return Object.fromEntries([...optionKeys].map(([name, key]) => [name, recipe[key]])) as unknown as RecipeOptions
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
