import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { errorLine, exitCodeOf, UsageError } from '../../lib/cli/failure.js'
import { createProgram, isHelp, runProgram } from '../../lib/cli/program.js'
import { recipeFlagLayer, recipeFromFlags } from '../../lib/cli/recipe-flags.js'
import { RecipeError } from '../../lib/errors.js'
import { modelKeys, recipeKeys } from '../../lib/train/recipe-schema.js'

const directory = mkdtempSync(join(tmpdir(), 'cli-'))
afterAll(() => rmSync(directory, { recursive: true }))
afterEach(() => vi.restoreAllMocks())

/** Runs a command line that fails; its error line and exit code. */
async function failure(...argv: string[]): Promise<{ line: string; code: number }> {
  const error = await runProgram(argv).catch((error: unknown) => error)
  expect(error).toBeInstanceOf(Error)
  return { line: errorLine(error), code: exitCodeOf(error) }
}

/** What a command line prints on stdout. */
async function printed(...argv: string[]): Promise<string> {
  let text = ''
  vi.spyOn(process.stdout, 'write').mockImplementation((part) => {
    text += part
    return true
  })
  await runProgram(argv).catch((error: unknown) => {
    if (!isHelp(error)) throw error
  })
  return text
}

describe('a mistake on the command line', () => {
  test('in the name of a command is answered with the nearest', async () => {
    expect(await failure('trian')).toEqual({ line: 'error: unknown command trian; did you mean train?', code: 2 })
    expect((await failure('make-coffee')).line).toMatch(/expected one of train, sample, process-dataset/)
    expect((await failure('help', 'trian')).line).toMatch(/unknown command trian; did you mean train/)
  })

  test('that names no command says where they are listed', async () => {
    const line = 'error: expected a command; "openalpaca --help" lists them'
    expect(await failure('--verbose')).toEqual({ line, code: 2 })
  })

  test('in the name of a flag is answered with the nearest', async () => {
    const { line, code } = await failure('train', '--learning-rat', '1')
    expect(line).toBe("error: unknown option '--learning_rat' (Did you mean --learning_rate?)")
    expect(code).toBe(2)
  })

  test('in a value says what is expected', async () => {
    expect(await failure('train', '--learning_rate', 'fast')).toEqual({
      line: 'error: --learning_rate is "fast"; expected a number above 0',
      code: 2,
    })
    expect((await failure('train', '--epochs', '-1')).line).toBe('error: --epochs is -1; expected a number above 0')
    expect((await failure('train', '--model.hidden_size', '{')).line).toMatch(/--model\.hidden_size is "{"; expected/)
    expect((await failure('process-dataset', '--input', 'a', '--output', 'b', '--max-words', '1.5')).line).toMatch(
      /'1\.5' is invalid\. Expected a whole number/,
    )
  })

  test('that leaves out what is needed says so', async () => {
    const { line, code } = await failure('sample', '--model_path', 'x')
    expect([line, code]).toEqual(["error: required option '--instruction <text>' not specified", 2])
  })
})

describe('a failing command', () => {
  test('gives one line, and 1 as its exit code', async () => {
    const output = join(directory, 'out.json')
    const { line, code } = await failure('process-dataset', '--input', join(directory, 'no.jsonl'), '--output', output)
    expect(line).toMatch(/^error: .*no\.jsonl does not exist/)
    expect(code).toBe(1)
  })

  test('has any error folded into one line', () => {
    expect(errorLine(new Error('error: first\n  second\n'))).toBe('error: first second')
    expect(errorLine(new TypeError())).toBe('error: TypeError')
    expect(errorLine('text')).toBe('error: text')
    expect(exitCodeOf(new RecipeError('x'))).toBe(1)
    expect(exitCodeOf(new UsageError('x'))).toBe(2)
  })
})

describe('help', () => {
  test('shows every recipe key with its default', async () => {
    const help = await printed('train', '--help')
    for (const key of recipeKeys) expect(help).toMatch(new RegExp(`--${key} `))
    for (const key of modelKeys) expect(help).toContain(`--model.${key} `)
    expect(help).toMatch(/--learning_rate <number> .*\(default: 2e-5\)/)
    expect(help).toContain('Learning-rate schedule:')
    expect(help).toContain('--verbose')
  })

  test('names the commands', async () => {
    const names = createProgram().commands.map((command) => command.name())
    for (const name of names) expect(await printed('--help')).toContain(name)
    expect(await printed()).toBe(await printed('--help'))
  })
})

describe('recipe flags', () => {
  test('have the types of their keys', () => {
    expect(
      recipeFlagLayer({
        learning_rate: '1e-5',
        name: '7',
        max_steps: 'null',
        resume: true,
        sample_prompts: ['1', 'two'],
        'model.hidden_size': '64',
        'model.tie_word_embeddings': true,
        preview: 3,
      }).values,
    ).toEqual({
      learning_rate: 1e-5,
      name: '7',
      max_steps: null,
      resume: 'auto',
      sample_prompts: ['1', 'two'],
      model: { hidden_size: 64, tie_word_embeddings: true },
    })
  })

  test('resume from the last checkpoint, from a path, or not', () => {
    const resume = (value: unknown) => recipeFlagLayer({ resume: value }).values.resume
    expect([true, 'auto', 'ckpt/checkpoint-5', 'true', 'false'].map(resume)).toEqual([
      'auto',
      'auto',
      'ckpt/checkpoint-5',
      true,
      false,
    ])
  })

  test('go before the DeepSpeed file, that before the recipe, and that before the defaults', () => {
    const recipe = join(directory, 'recipe.yaml')
    const deepspeed = join(directory, 'ds.json')
    writeFileSync(recipe, 'batch_size: 1\nweight_decay: 0.1\nadam_beta1: 0.1\n')
    writeFileSync(
      deepspeed,
      JSON.stringify({ train_batch_size: 2, fp16: { enabled: true }, optimizer: { params: { weight_decay: 0.2 } } }),
    )
    const said: string[] = []
    expect(recipeFromFlags({ recipe, deepspeed, batch_size: '3' }, (note) => said.push(note))).toMatchObject({
      batch_size: 3,
      weight_decay: 0.2,
      adam_beta1: 0.1,
      adam_beta2: 0.95,
    })
    expect(said).toEqual([expect.stringMatching(/ds\.json: fp16 is not supported/)])
  })

  test('of a model or data of one’s own take no built-in recipe', () => {
    expect(recipeFromFlags({ model_path: 'a', data_path: 'b' }, () => {})).toMatchObject({ name: 'run', epochs: 3 })
  })
})
