/** Positional arguments, and flags of other programs: accepted if the meaning is clear, else answered with our flag. */
import { existsSync } from 'node:fs'
import { type Command, CommanderError } from 'commander'
import { isDataFile } from '../hub/dataset.js'
import { parseModelName } from '../hub/settings.js'
import { adviceFor } from '../train/foreign-keys.js'
import { builtInRecipes } from '../train/recipe.js'
import { UsageError } from './failure.js'

/**
 * An action whose positional arguments set the flags of their names, in order, if these are not given: `sample DIR
 * "text"` is `sample --model_path DIR --instruction "text"`.
 * @throws {UsageError} for a missing argument, or one too many
 */
export function withArguments<Flags extends object>(run: (flags: Flags) => Promise<void>) {
  return async (...all: unknown[]): Promise<void> => {
    const command = all.at(-1) as Command
    const keys = command.registeredArguments.map((argument) => argument.name())
    const flags = { ...(all.at(-2) as Record<string, unknown>) }
    const given = all.slice(0, keys.length).filter((argument) => argument !== undefined) as string[]
    for (const key of keys) if (flags[key] === undefined && given.length > 0) flags[key] = given.shift()
    if (given.length > 0) {
      throw new UsageError(`unexpected argument "${given[0]}": --${keys.join(' and --')} are given already`)
    }
    const missing = keys.find((key) => flags[key] === undefined)
    if (missing) {
      const option = command.options.find(({ long }) => long === `--${missing}`)!
      throw new UsageError(`required option '${option.flags}' not specified`)
    }
    await run(flags as Flags)
  }
}

/**
 * The recipe given without a flag: `train my.yaml`.
 * @throws {UsageError} for an argument that is not a recipe, with the flag that may be meant
 */
export function recipeArgument(argument: string | undefined, flag: string | undefined): string | undefined {
  if (argument === undefined) return flag
  if (flag !== undefined) throw new UsageError(`unexpected argument "${argument}": --recipe is given already`)
  if (/\.ya?ml$/i.test(argument) || builtInRecipes().includes(argument)) return argument
  const wanted = isDataFile(argument)
    ? `--data_path ${argument}`
    : existsSync(argument) || parseModelName(argument)
      ? `--model_path ${argument}`
      : undefined
  const recipes = `a recipe (a YAML file, or one of ${builtInRecipes().join(', ')})`
  throw new UsageError(`expected ${recipes}, got "${argument}"${wanted ? `: use ${wanted}` : ''}`)
}

/** Flags of llama.cpp, Transformers, and OpenAI's API, by the commands that have an equivalent. */
const others: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  sample: {
    model: '--model_path',
    prompt: '--instruction (with --raw_prompt for a prompt without the template)',
    max_new_tokens: '--generate_len',
    max_tokens: '--generate_len',
    max_length: '--generate_len, the number of new tokens',
    n_predict: '--generate_len',
    temp: '--temperature',
    repeat_penalty: '--repetition_penalty',
    do_sample: '--temperature above 0; sampling is the default, and --greedy the opposite',
    ctx_size: '--generate_len, the number of new tokens; the context is that of the model',
  },
  convert: {
    model: '--model_path',
    outfile: '--output',
    output_path: '--output',
    output_dir: '--output',
    outtype: '--dtype',
    quantization: '--dtype q8_0',
    format: '--to',
  },
  inspect: { model_path: 'inspect PATH, without a flag', model: 'inspect PATH, without a flag' },
  push: { repo_id: '--repo', model: '--model_path', hub_model_id: '--repo', commit_message: '--message' },
  'model-card': { model: '--model_path', dataset: '--datasets', language: '--languages' },
  'make-shards': { model: '--model_path', output_dir: '--output', max_size: '--max_shard_size' },
  'process-dataset': { data_path: '--input', data: '--input', input_file: '--input', output_path: '--output' },
}

/** Explains an unknown flag that is known from another program; returns any other error unchanged. */
export function explainUnknownFlag(error: unknown, command: string): unknown {
  if (!(error instanceof CommanderError) || error.code !== 'commander.unknownOption') return error
  const [, name] = /'--(\w+)/.exec(error.message) ?? []
  if (name === undefined) return error
  const takesRecipe = command === 'train' || command === 'plan'
  const advice = takesRecipe ? adviceFor(name, (key) => `--${key}`) : others[command]?.[name]
  if (advice === undefined) return error
  return new UsageError(`unknown option '--${name}': ${takesRecipe ? '' : 'use '}${advice}`)
}
