import { spawnSync } from 'node:child_process'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, it } from 'vitest'
import { temporaryDirectory } from '../formats/helpers.js'
import { main, smallRun } from '../support/small-run.js'

const root = temporaryDirectory()

/** The stdout of a command with --json. */
function printed(...command: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...command, '--json'], { encoding: 'utf8' })
  expect(status, stderr).toBe(0)
  return stdout
}
const openalpaca = (...args: string[]) => printed(main, ...args)

it('train --json prints only the events of its log, and every command after it one object', () => {
  const run = path.join(root, 'run')
  const events = printed(...smallRun({ save_path: run, max_steps: 2 }))
  expect(events).toBe(readFileSync(path.join(run, 'logs', 'train.jsonl'), 'utf8'))
  const kinds = events
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).type)
  // A busy machine and a short run cause warnings.
  expect(kinds.filter((kind) => kind !== 'warning')).toEqual([
    'start',
    'step',
    'step',
    'checkpoint',
    'validation',
    'end',
  ])

  const result = (...args: string[]) => JSON.parse(openalpaca(...args))
  const at = (name: string) => path.join(root, name)
  const weights = { output: at('merged'), files: [{ name: 'model.safetensors' }], renamed: 0, overflows: 0 }
  expect(result('zero-to-fp32', path.join(run, 'checkpoint-2'), at('merged'))).toMatchObject(weights)
  const shards = result('make-shards', '--model_path', run, '--output', at('shards'), '--max_shard_size', '600KB')
  expect(shards).toMatchObject({ output: at('shards'), files: { length: 5 } })
  const gguf = { output: at('model.gguf'), format: 'gguf', overflows: 0, overflowing: {}, warnings: [] }
  expect(result('convert', '--model_path', run, '--output', gguf.output)).toEqual({
    ...gguf,
    bytes: statSync(gguf.output).size,
  })
  expect(result('inspect', gguf.output)).toMatchObject({ whole: true })
  expect(result('model-card', '--model_path', run)).toEqual({ file: path.join(run, 'README.md') })

  const rows = [
    { instruction: 'Add.', context: '1 and 2', response: '3' },
    { instruction: 'a b c', response: 'd' },
  ]
  writeFileSync(at('rows.jsonl'), rows.map((row) => JSON.stringify(row)).join('\n'))
  const files = ['--input', at('rows.jsonl'), '--output', at('rows.json')]
  const kept = { output: at('rows.json'), written: 1, leftOut: 1, unused_fields: {}, empty_answers: 0 }
  expect(result('process-dataset', ...files, '--max_words', '4')).toEqual(kept)
})
