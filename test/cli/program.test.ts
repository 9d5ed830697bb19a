import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { recipeArgument, withArguments } from '../../lib/cli/arguments.js'
import { errorLine, exitCodeOf, UsageError } from '../../lib/cli/failure.js'
import { createProgram, isHelp, runProgram } from '../../lib/cli/program.js'
import { recipeFlagLayer, recipeFromFlags } from '../../lib/cli/recipe-flags.js'
import { RecipeError } from '../../lib/errors.js'
import { aliases } from '../../lib/train/foreign-keys.js'
import { modelKeys, recipeKeys } from '../../lib/train/recipe-schema.js'

const directory = mkdtempSync(join(tmpdir(), 'cli-'))
afterAll(() => rmSync(directory, { recursive: true }))
afterEach(() => vi.restoreAllMocks())

/** Runs a command line that fails; returns its error line and exit code. */
async function failure(...argv: string[]): Promise<{ line: string; code: number }> {
  const error = await runProgram(argv).catch((error: unknown) => error)
  expect(error).toBeInstanceOf(Error)
  return { line: errorLine(error), code: exitCodeOf(error) }
}

/** The stdout of a command line. */
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
  test('a mistyped command gets the nearest command', async () => {
    expect(await failure('trian')).toEqual({ line: 'error: unknown command trian; did you mean train?', code: 2 })
    expect((await failure('make-coffee')).line).toMatch(/expected one of train, sample, process-dataset/)
    expect((await failure('help', 'trian')).line).toMatch(/unknown command trian; did you mean train/)
  })

  test('an unknown command points to the list of commands', async () => {
    const line = 'error: expected a command; "openalpaca --help" lists them'
    expect(await failure('--verbose')).toEqual({ line, code: 2 })
  })

  test('a mistyped flag gets the nearest flag', async () => {
    const { line, code } = await failure('train', '--learning-rat', '1')
    expect(line).toBe("error: unknown option '--learning_rat' (Did you mean --learning_rate?)")
    expect(code).toBe(2)
  })

  test('a wrong value gets the expected type', async () => {
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

  test('a missing argument is reported', async () => {
    const { line, code } = await failure('sample', '--model_path', 'x')
    expect([line, code]).toEqual(["error: required option '--instruction <text>' not specified", 2])
  })
})

describe('a flag of another program', () => {
  test('equivalent flags of other programs are accepted', () => {
    const flags = {
      lr: '1e-4',
      num_train_epochs: '2',
      output_dir: 'o',
      data: 'd.json',
      eval_steps: '7',
      base_model: 'm',
    }
    expect(recipeFromFlags(flags, () => {})).toMatchObject({
      name: 'run', // disables the quickstart
      learning_rate: 1e-4,
      epochs: 2,
      save_path: 'o',
      data_path: 'd.json',
      validation_every: 7,
      model_path: 'm',
    })
    expect(recipeFlagLayer({ resume_from_checkpoint: true }).values).toEqual({ resume: 'auto' })
    expect(recipeFlagLayer({ lr: '1' }).where('learning_rate')).toBe('--lr')
    for (const [alias, key] of Object.entries(aliases)) {
      expect(recipeKeys, alias).toContain(key)
      expect([...recipeKeys, ...modelKeys], alias).not.toContain(alias)
    }
  })

  test('a flag of another program is named in errors as typed', async () => {
    expect((await failure('train', '--lr', 'fast')).line).toBe('error: --lr is "fast"; expected a number above 0')
    expect(await failure('train', '--lr', '1', '--learning-rate', '2')).toEqual({
      line: expect.stringMatching(/^error: --l\w+ and --l\w+ are the same setting: keep one of them$/),
      code: 2,
    })
  })

  test.each([
    ['train', '--bf16', '--dtype'],
    ['train', '--lora-r=8', 'LoRA'],
    ['train', '--report_to', '--log_path'],
    ['train', '--per_device_train_batch_size', '--batch_size'],
    ['train', '--gradient-accumulation-steps', '--batch_size'],
    ['plan', '--micro_batch_size', '--batch_size'],
    ['train', '--gradient_checkpointing', '--max_tokens_per_micro_batch'],
    ['train', '--lr_scheduler_type', '--lr_scheduler'],
    ['train', '--push_to_hub', 'openalpaca push'],
    ['sample', '--prompt', '--instruction'],
    ['sample', '--max_new_tokens', '--generate_len'],
    ['convert', '--outfile', '--output'],
    ['convert', '--outtype', '--dtype'],
    ['push', '--repo_id', '--repo'],
    ['inspect', '--model_path', 'inspect PATH'],
  ])('suggests our flag for another: %s %s', async (command, flag, ours) => {
    const { line, code } = await failure(command, flag, '8')
    const name = flag.replace(/=.*/, '').slice(2).replaceAll('-', '_')
    expect(line.startsWith(`error: unknown option '--${name}': `), line).toBe(true)
    expect(line).toContain(ours)
    expect(line).not.toMatch(/[{}]/)
    expect(code).toBe(2)
  })

  test('a map in place of a model’s path gets the flag for a path', async () => {
    expect(await failure('train', '--model', 'runs/quickstart')).toEqual({
      line:
        'error: --model is "runs/quickstart"; expected a map of keys and values; for a model that exists, use ' +
        '--model_path runs/quickstart',
      code: 2,
    })
  })
})

describe('an argument without a flag', () => {
  /** The flags that a command receives. */
  async function flagsOf(...argv: string[]): Promise<Record<string, unknown>> {
    const program = createProgram()
    let got: Record<string, unknown> = {}
    const command = program.commands.find((candidate) => candidate.name() === argv[0])!
    const run = withArguments(async (flags: Record<string, unknown>) => {
      got = flags
    })
    command.action(run)
    await program.parseAsync(argv, { from: 'user' })
    return got
  }

  test('an argument without a flag is the model, the text, or the file that a command needs', async () => {
    expect(await flagsOf('sample', 'DIR', 'Say hi.')).toMatchObject({ model_path: 'DIR', instruction: 'Say hi.' })
    expect(await flagsOf('sample', '--model_path', 'DIR', 'Say hi.')).toMatchObject({ instruction: 'Say hi.' })
    expect(await flagsOf('sample', 'DIR', '--instruction', 'x')).toMatchObject({ model_path: 'DIR', instruction: 'x' })
    expect(await flagsOf('convert', 'DIR', 'out.gguf')).toMatchObject({ model_path: 'DIR', output: 'out.gguf' })
    expect(await flagsOf('process-dataset', 'in.csv', 'out.json')).toMatchObject({
      input: 'in.csv',
      output: 'out.json',
    })
    expect(await flagsOf('push', 'DIR', 'me/model')).toMatchObject({ model_path: 'DIR', repo: 'me/model' })
    expect(await flagsOf('make-shards', 'DIR')).toMatchObject({ model_path: 'DIR' })
    expect(await flagsOf('model-card', 'DIR')).toMatchObject({ model_path: 'DIR' })
  })

  test('a missing or extra argument is rejected', async () => {
    expect(await failure('sample', 'DIR')).toEqual({
      line: "error: required option '--instruction <text>' not specified",
      code: 2,
    })
    expect(await failure('convert', '--model_path', 'a', '--output', 'b', 'c')).toEqual({
      line: 'error: unexpected argument "c": --model_path and --output are given already',
      code: 2,
    })
    expect((await failure('sample', 'DIR', 'What', 'is', 'it?')).line).toMatch(/too many arguments for 'sample'/)
  })

  test('an argument of train and plan is the recipe', () => {
    expect(recipeArgument('my.yaml', undefined)).toBe('my.yaml')
    expect(recipeArgument('openalpaca-3b', undefined)).toBe('openalpaca-3b')
    expect(recipeArgument(undefined, 'my.yml')).toBe('my.yml')
  })

  test.each([
    ['data.jsonl', '--data_path data.jsonl'],
    ['openlm-research/open_llama_3b_v2', '--model_path openlm-research/open_llama_3b_v2'],
    [directory, `--model_path ${directory}`],
  ])('an argument that is not a recipe gets the flag that it may need: %s', async (argument, flag) => {
    const { line, code } = await failure('train', argument)
    expect(line).toBe(
      'error: expected a recipe (a YAML file, or one of openalpaca-3b, openalpaca-7b, quickstart, small-data), got ' +
        `"${argument}": use ${flag}`,
    )
    expect(code).toBe(2)
    expect((await failure('plan', 'x.yaml', '--recipe', 'y.yaml')).line).toMatch(/--recipe is given already/)
  })
})

describe('a failing command', () => {
  test('a failing command prints one line, and exits with 1', async () => {
    const output = join(directory, 'out.json')
    const { line, code } = await failure('process-dataset', '--input', join(directory, 'no.jsonl'), '--output', output)
    expect(line).toMatch(/^error: .*no\.jsonl does not exist/)
    expect(code).toBe(1)
  })

  test('a failing command folds any error into one line', () => {
    expect(errorLine(new Error('error: first\n  second\n'))).toBe('error: first second')
    expect(errorLine(new TypeError())).toBe('error: TypeError')
    expect(errorLine('text')).toBe('error: text')
    expect(exitCodeOf(new RecipeError('x'))).toBe(1)
    expect(exitCodeOf(new UsageError('x'))).toBe(2)
  })
})

describe('help', () => {
  test('help shows every recipe key with its default', async () => {
    const help = await printed('train', '--help')
    for (const key of recipeKeys) expect(help).toMatch(new RegExp(`--${key} `))
    for (const key of modelKeys) expect(help).toContain(`--model.${key} `)
    expect(help).toMatch(/--learning_rate <number> .*\(default: 2e-5\)/)
    expect(help).toContain('Learning-rate schedule:')
    expect(help).toContain('--verbose')
  })

  test('help lists the commands', async () => {
    const names = createProgram().commands.map((command) => command.name())
    for (const name of names) expect(await printed('--help')).toContain(name)
    expect(await printed()).toBe(await printed('--help'))
  })
})

describe('recipe flags', () => {
  test('recipe flags have the types of their keys', () => {
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

  test('--resume accepts the last checkpoint, a path, or none', () => {
    const resume = (value: unknown) => recipeFlagLayer({ resume: value }).values.resume
    expect([true, 'auto', 'ckpt/checkpoint-5', 'true', 'false'].map(resume)).toEqual([
      'auto',
      'auto',
      'ckpt/checkpoint-5',
      true,
      false,
    ])
  })

  test('flags take precedence over the DeepSpeed file, then the recipe, then the defaults', () => {
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

  test("flags for the user's own model or data disable built-in recipes", () => {
    expect(recipeFromFlags({ model_path: 'a', data_path: 'b' }, () => {})).toMatchObject({ name: 'run', epochs: 3 })
  })
})
