import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { RecipeError } from '../../lib/errors.js'
import { editDistance, nearest } from '../../lib/nearest.js'
import { adviceFor, adviceKeys } from '../../lib/train/foreign-keys.js'
import {
  builtInRecipes,
  loadRecipe,
  optionsFromRecipe,
  parseRecipe,
  recipeFromOptions,
  resolveRecipe,
} from '../../lib/train/recipe.js'
import { recipeGroups, recipeKeys, schemaOf } from '../../lib/train/recipe-schema.js'

const directory = mkdtempSync(join(tmpdir(), 'recipe-'))
afterAll(() => rmSync(directory, { recursive: true }))

const fromText = (text: string) => resolveRecipe([parseRecipe(text, 'my.yaml')])

/** The error message that rejects a recipe. */
function refusal(text: string): string {
  try {
    fromText(text)
  } catch (error) {
    expect(error).toBeInstanceOf(RecipeError)
    return (error as Error).message
  }
  throw new Error('the recipe was accepted')
}

describe('a recipe', () => {
  test('has the defaults of OpenAlpaca', () => {
    expect(fromText('')).toMatchObject({
      batch_size: 64,
      learning_rate: 2e-5,
      epochs: 3,
      seed: 0,
      adam_beta1: 0.9,
      adam_beta2: 0.95,
      adam_epsilon: 1e-8,
      weight_decay: 0.001,
      max_grad_norm: 1,
      lr_scheduler: 'warmup_decay',
      warmup_type: 'log',
      warmup_ratio: 0.1,
      loss_reduction: 'instance',
    })
  })

  test('parses numbers in every usual notation', () => {
    expect(fromText('learning_rate: 1e-4\nepochs: 1.5\nvalidation_size: 0.01')).toMatchObject({
      learning_rate: 1e-4,
      epochs: 1.5,
      validation_size: 0.01,
    })
  })

  test('describes every key', () => {
    for (const group of Object.values(recipeGroups)) {
      for (const schema of Object.values(group)) expect(schema.description).toMatch(/^\S.{10,}[^.]$/)
    }
  })

  test('names the line of an unknown key and the nearest valid key', () => {
    expect(refusal('batch_size: 8\n\nlearning_rat: 1e-5')).toBe(
      'my.yaml:3: unknown key learning_rat; did you mean learning_rate?',
    )
  })

  test('suggests nothing for a key that is close to none', () => {
    expect(refusal('zzzzzzzzzzz: 1')).toBe('my.yaml:1: unknown key zzzzzzzzzzz; openalpaca train --help lists them all')
  })

  test('names the line, the value, and the expected type of a wrong value', () => {
    expect(refusal('seed: 1\nlearning_rate: fast')).toBe(
      'my.yaml:2: learning_rate is "fast"; expected a number above 0',
    )
    expect(refusal('batch_size: 0')).toBe('my.yaml:1: batch_size is 0; expected a whole number of at least 1')
    expect(refusal('batch_size: 2.5')).toContain('expected a whole number of at least 1')
    expect(refusal('adam_beta2: 1')).toContain('expected a number from 0 to below 1')
    expect(refusal('warmup_ratio: 2')).toContain('expected a number from 0 to 1')
    expect(refusal('lr_scheduler: linear')).toContain('expected one of warmup_decay, constant, cosine')
    expect(refusal('max_shard_size: big')).toContain('expected a size such as 5GB')
    expect(refusal('validation_size: -1')).toContain('a number from 0 to below 1 or a whole number of at least 1')
    expect(refusal('sample_prompts: [{ text: hello }]')).toContain('expected a list')
    expect(refusal('model: 7B')).toContain('expected a map of keys and values')
  })

  test('names keys within model', () => {
    const model = 'model:\n  hidden_size: 64\n  intermediate_size: 128\n  num_hidden_layers: 2\n'
    expect(fromText(`${model}  num_attention_heads: 4`).model).toMatchObject({ hidden_size: 64 })
    expect(refusal(model)).toBe(
      'my.yaml:1: model.num_attention_heads is missing; expected a whole number of at least 1',
    )
    expect(refusal(`${model}  num_attention_head: 4`)).toMatch(/num_attention_heads/)
    expect(refusal(`${model}  num_attention_heads: 0`)).toContain('my.yaml:5: model.num_attention_heads is 0')
    expect(refusal(`${model}  num_attention_heads: 4\n  rms_norm_epsi: 1`)).toBe(
      'my.yaml:6: unknown key model.rms_norm_epsi; did you mean model.rms_norm_eps?',
    )
  })

  test('rejects a recipe that is not a map in valid YAML', () => {
    expect(refusal('- a\n- b')).toBe('my.yaml:1: a recipe is a map of keys and values')
    expect(refusal('seed: 1\nepochs: [1')).toMatch(/^my\.yaml:2: not valid YAML: /)
    expect(refusal('seed: 1\nseed: 2')).toMatch(/^my\.yaml:2: not valid YAML: Map keys must be unique/)
  })

  test('treats null as the default', () => {
    expect(fromText('learning_rate: null\nmax_steps:')).toMatchObject({ learning_rate: 2e-5 })
    expect(fromText('max_steps:').max_steps).toBeUndefined()
  })
})

describe('mistyped recipe keys', () => {
  const edits = fc.constantFrom('drop', 'double', 'swap', 'replace')

  function mistype(key: string, edit: string, at: number): string {
    if (edit === 'drop') return key.slice(0, at) + key.slice(at + 1)
    if (edit === 'double') return key.slice(0, at) + key[at] + key.slice(at)
    if (edit === 'swap') return key.slice(0, at) + (key[at + 1] ?? '') + key[at] + key.slice(at + 2)
    return `${key.slice(0, at)}q${key.slice(at + 1)}`
  }

  test('suggests the key at an edit distance of one', () => {
    const cases = fc.record({ key: fc.constantFrom(...recipeKeys), edit: edits, position: fc.nat() })
    fc.assert(
      fc.property(cases, ({ key, edit, position }) => {
        const typed = mistype(key, edit, position % key.length)
        fc.pre(typed !== '' && schemaOf(typed) === undefined)
        const suggestion = /did you mean (\w+)\?/.exec(refusal(`${JSON.stringify(typed)}: 1`))?.[1]
        expect(editDistance(typed, suggestion!)).toBe(1)
      }),
      { seed: 1, numRuns: 200 },
    )
  })

  test('accepts no mistyped key', () => {
    fc.assert(
      fc.property(fc.string(), (key) => {
        fc.pre(schemaOf(key) === undefined)
        expect(() => resolveRecipe([{ values: { [key]: 1 }, where: () => 'here' }])).toThrow(/^here: unknown key /)
      }),
      { seed: 2, examples: [['toString'], ['__proto__'], ['constructor'], ['']] },
    )
  })

  test('measures insertions, deletions, substitutions, and swaps', () => {
    expect(editDistance('', 'abc')).toBe(3)
    expect(editDistance('kitten', 'sitting')).toBe(3)
    expect(editDistance('sede', 'seed')).toBe(1)
    expect(nearest('Epoch', ['epochs', 'seed'])).toBe('epochs')
    expect(nearest('anything', [])).toBeUndefined()
  })
})

describe('keys of other trainers', () => {
  const problem = (text: string) => {
    try {
      return JSON.stringify(resolveRecipe([parseRecipe(text, 'axolotl.yaml')]))
    } catch (error) {
      expect(error).toBeInstanceOf(RecipeError)
      return (error as Error).message
    }
  }

  test('accepts equivalent keys of other trainers', () => {
    const text =
      'base_model: m\nsequence_len: 512\nnum_epochs: 2\noutput_dir: o\nval_set_size: 0.05\nsave_total_limit: 3\nlr: 1e-4\n'
    expect(resolveRecipe([parseRecipe(text, 'axolotl.yaml')])).toMatchObject({
      model_path: 'm',
      max_length: 512,
      epochs: 2,
      save_path: 'o',
      validation_size: 0.05,
      keep_last: 3,
      learning_rate: 1e-4,
    })
    expect(problem('name: a\nnum_epochs: few\n')).toMatch(/^axolotl\.yaml:2: epochs is "few"; expected a number/)
    expect(problem('lr: 1\nlearning_rate: 2\n')).toBe(
      'axolotl.yaml:2: learning_rate and lr are the same setting: keep one of them',
    )
  })

  test('suggests our keys for others, and lists all unknown keys', () => {
    expect(problem('name: a\nmicro_batch_size: 2\ngradient_accumulation_steps: 4\nadapter: lora\nlora_r: 8\n')).toMatch(
      /^axolotl\.yaml:2: unknown key micro_batch_size; use batch_size, .*; also unknown: gradient_accumulation_steps, adapter, lora_r$/,
    )
    expect(problem('bf16: auto\n')).toMatch(/^axolotl\.yaml:1: unknown key bf16; use dtype /)
    expect(problem('model: runs/quickstart\n')).toMatch(
      /model is "runs\/quickstart"; expected a map .*; for a model that exists, use model_path: runs\/quickstart$/,
    )
    expect(() => recipeFromOptions({ perDeviceTrainBatchSize: 4 } as object)).toThrow(/use batchSize, /)
    expect(() => recipeFromOptions({ lr: 1e-4 } as object)).toThrow('unknown option lr; use learningRate')
  })

  test('suggests only keys that exist', () => {
    const names: string[] = []
    for (const key of adviceKeys) adviceFor(key, (name) => `${names.push(name)}`)
    expect(names.length).toBeGreaterThan(30)
    expect(names.filter((name) => !(recipeKeys as string[]).includes(name))).toEqual([])
    expect(adviceKeys.filter((key) => (recipeKeys as string[]).includes(key))).toEqual([])
    expect(new Set(adviceKeys).size).toBe(adviceKeys.length)
  })
})

describe('recipe layers', () => {
  const layer = (values: Record<string, unknown>, name: string) => ({
    values,
    where: (key: string) => `${name} ${key}`,
  })

  test('later layers override earlier ones, and null resets an earlier value', () => {
    const file = layer({ seed: 1, epochs: 2, batch_size: 8 }, 'file')
    const flags = layer({ seed: 3, batch_size: null }, 'flag')
    expect(resolveRecipe([file, flags])).toMatchObject({ seed: 3, epochs: 2, batch_size: 64 })
  })

  test('errors name the layer that causes them', () => {
    expect(() => resolveRecipe([layer({ seed: -1 }, 'file'), layer({ epochs: 0 }, 'flag')])).toThrow(
      /^file seed: seed is -1/,
    )
    expect(() => resolveRecipe([layer({ seed: -1 }, 'file'), layer({ seed: 'x' }, 'flag')])).toThrow(/^flag seed/)
  })

  test('layers merge model key by key', () => {
    const model = { hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4 }
    const flags = layer({ model: { hidden_size: 32 } }, 'flag')
    expect(resolveRecipe([layer({ model }, 'file'), flags]).model).toEqual({ ...model, hidden_size: 32 })
  })

  test('a layer that sets data or a model overrides the built-in ones', () => {
    const file = layer({ dataset: 'quickstart', model_path: 'a' }, 'file')
    const { dataset, data_path } = resolveRecipe([file, layer({ data_path: 'mine.json' }, 'flag')])
    expect([dataset, data_path]).toEqual([undefined, 'mine.json'])
  })
})

describe('recipe files', () => {
  test('all recipes of the package load', () => {
    expect(builtInRecipes()).toEqual(expect.arrayContaining(['openalpaca-3b', 'openalpaca-7b']))
    for (const name of builtInRecipes()) expect(loadRecipe(name).name).toBe(name)
    expect(loadRecipe('openalpaca-3b').max_length).toBe(1536)
    expect(loadRecipe('openalpaca-7b').max_length).toBe(1024)
  })

  test("a user's recipe is named by its path", () => {
    const path = join(directory, 'mine.yaml')
    writeFileSync(path, '# mine\nepochs: none\n')
    expect(() => loadRecipe(path)).toThrow(`${path}:2: epochs is "none"`)
    writeFileSync(path, 'epochs: 7')
    expect(loadRecipe(path).epochs).toBe(7)
  })

  test('missing recipes give different errors for paths and built-in names', () => {
    expect(() => loadRecipe('openalpaca-3')).toThrow('did you mean openalpaca-3b?')
    expect(() => loadRecipe('nothing-like-it')).toThrow(/there are .*openalpaca-3b.*or give the path/)
    expect(() => loadRecipe(join(directory, 'none.yaml'))).toThrow(/cannot read the recipe .*none\.yaml: ENOENT/)
  })
})

describe('trainer options', () => {
  test('have the recipe keys in camel case', () => {
    expect(recipeFromOptions({ learningRate: 1e-3, adamBeta1: 0.8, maxTokensPerMicroBatch: 512 })).toMatchObject({
      learning_rate: 1e-3,
      adam_beta1: 0.8,
      max_tokens_per_micro_batch: 512,
      batch_size: 64,
    })
    const recipe = loadRecipe('openalpaca-3b')
    expect(recipeFromOptions(optionsFromRecipe(recipe))).toEqual(recipe)
  })

  test('reject invalid values', () => {
    expect(() => recipeFromOptions({ learningRat: 1 } as object)).toThrow('did you mean learningRate?')
    expect(() => recipeFromOptions({ learningRate: Number.NaN })).toThrow(/learning_rate/)
    expect(() => recipeFromOptions({ learningRate: Number.POSITIVE_INFINITY })).toThrow(/learning_rate/)
  })
})
