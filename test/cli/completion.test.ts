import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { completionScript, shells } from '../../lib/cli/completion.js'
import { examples } from '../../lib/cli/examples.js'
import { createProgram } from '../../lib/cli/program.js'
import { recipeKeys } from '../../lib/train/recipe-schema.js'

const directory = mkdtempSync(join(tmpdir(), 'completion-'))
afterAll(() => rmSync(directory, { recursive: true }))
mkdirSync(join(directory, 'ckpt'))
writeFileSync(join(directory, 'data.json'), '[]')

/** The completions of bash for each command line, whose last word is being completed. */
function offers(...lines: string[][]): string[][] {
  const ask = lines.map((words) => {
    const quoted = words.map((word) => `'${word}'`).join(' ')
    return `COMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; _openalpaca; echo "\${COMPREPLY[*]}"`
  })
  const script = `${completionScript(createProgram(), 'bash')}\n${ask.join('\n')}\n`
  const { stdout, stderr, status } = spawnSync('bash', ['--norc', '-eu'], {
    cwd: directory,
    input: script,
    encoding: 'utf8',
  })
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' ').filter(Boolean))
}

describe('completion in bash', () => {
  test('completes commands, and the flags of the typed command', () => {
    const [commands, some, flags, begun] = offers(
      ['openalpaca', ''],
      ['openalpaca', 'm'],
      ['openalpaca', 'inspect', '--'],
      ['openalpaca', 'train', '--learning_r'],
    )
    expect(commands).toEqual(createProgram().commands.map((command) => command.name()))
    expect(some).toEqual(['make-shards', 'model-card'])
    expect(flags).toEqual(expect.arrayContaining(['--json', '--tensors', '--quick', '--help', '--verbose']))
    expect(begun).toEqual(['--learning_rate'])
  })

  test('completes every recipe key, in either spelling', () => {
    const [all, dashes] = offers(['openalpaca', 'train', '--'], ['openalpaca', 'train', '--learning-r'])
    for (const key of recipeKeys) expect(all).toContain(`--${key}`)
    expect(dashes).toEqual(['--learning-rate'])
  })

  test('completes the values of a flag, and files if a flag takes one', () => {
    const [choices, folders, files, free, paths, words] = offers(
      ['openalpaca', 'convert', '--to', ''],
      ['openalpaca', 'sample', '--model-path', ''],
      ['openalpaca', 'train', '--data_path', 'd'],
      ['openalpaca', 'sample', '--instruction', ''],
      ['openalpaca', 'inspect', 'c'],
      ['openalpaca', 'completion', ''],
    )
    expect(choices).toEqual(['gguf', 'safetensors', 'bin'])
    expect(folders).toEqual(['ckpt'])
    expect(files).toEqual(['data.json'])
    expect(free).toEqual([])
    expect(paths).toEqual(['ckpt'])
    expect(words).toEqual([...shells])
  })
})

test.each(['zsh', 'fish'] as const)('the script for %s names every command and every flag', (shell) => {
  const script = completionScript(createProgram(), shell)
  for (const command of createProgram().commands) {
    expect(script).toContain(command.name())
    for (const { long } of command.options.filter((option) => !option.hidden))
      expect(script).toContain(shell === 'fish' ? `-l ${long!.slice(2)}` : long)
  }
})

describe('the examples of --help', () => {
  /** Splits a line into arguments, without the redirections and substitutions of a shell. */
  const words = (line: string) => {
    const command = /openalpaca ([^>)#]*)/.exec(line)![1]!
    return command.match(/"[^"]*"|\S+/g)!.map((word) => word.replaceAll('"', ''))
  }

  test.each(createProgram().commands.map((command) => command.name()))('%s has examples, with valid flags', (name) => {
    expect(examples[name]?.length).toBeGreaterThan(0)
    for (const line of examples[name]!) {
      const [first, ...args] = words(line)
      const command = createProgram().commands.find((candidate) => candidate.name() === first)!
      const { operands, unknown } = command.parseOptions(args)
      expect({ first, unknown }).toEqual({ first: name, unknown: [] })
      // Positional arguments may be passed as flags; a recipe may be omitted.
      const needed = command.registeredArguments.map((argument) => argument.name()).filter((it) => it !== 'recipe')
      expect(operands).toHaveLength(needed.filter((argument) => !args.includes(`--${argument}`)).length)
      for (const option of command.options.filter((candidate) => candidate.mandatory)) {
        expect(args).toContain(option.long)
      }
    }
  })
})
