import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { expect, it } from 'vitest'
import { temporaryDirectory } from '../checkpoint/helpers.js'
import { fixtures } from '../support/fixtures.js'

const root = temporaryDirectory()
const d100 = path.join(fixtures, 'd100')
const data = path.join(fixtures, 'instructions.json')

/** What a command with --json prints on stdout. */
function openalpaca(...args: string[]): string {
  const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js')
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args, '--json'], { encoding: 'utf8' })
  expect(status, stderr).toBe(0)
  return stdout
}

it('train with --json prints the events of its log, alone, and every command after it one object', () => {
  const run = path.join(root, 'run')
  const sizes = ['--max_length', '224', '--batch_size', '4', '--max_steps', '2', '--validation_size', '2']
  const where = ['--model_path', d100, '--data_path', data, '--save_path', run, '--device', 'cpu', '--dtype', 'float32']
  const events = openalpaca('train', ...where, ...sizes, '--checkpoint_every', '2')
  expect(events).toBe(readFileSync(path.join(run, 'logs', 'train.jsonl'), 'utf8'))
  expect(events.trim().split('\n')).toHaveLength(6) // start, two steps, validation, checkpoint, end

  const result = (...args: string[]) => JSON.parse(openalpaca(...args))
  const at = (name: string) => path.join(root, name)
  const weights = { output: at('merged'), files: [{ name: 'model.safetensors' }], renamed: 0, overflows: 0 }
  expect(result('zero-to-fp32', path.join(run, 'checkpoint-2'), at('merged'))).toMatchObject(weights)
  const shards = result('make-shards', '--model_path', run, '--output', at('shards'), '--max_shard_size', '600KB')
  expect(shards).toMatchObject({ output: at('shards'), files: { length: 5 } })
  const gguf = { output: at('model.gguf'), format: 'gguf' }
  expect(result('convert', '--model_path', run, '--output', gguf.output)).toEqual(gguf)
  expect(result('inspect', gguf.output)).toMatchObject({ whole: true })
  expect(result('model-card', '--model_path', run)).toEqual({ file: path.join(run, 'README.md') })

  const rows = [
    { instruction: 'Add.', context: '1 and 2', response: '3' },
    { instruction: 'a b c', response: 'd' },
  ]
  writeFileSync(at('rows.jsonl'), rows.map((row) => JSON.stringify(row)).join('\n'))
  const files = ['--input', at('rows.jsonl'), '--output', at('rows.json')]
  const kept = { output: at('rows.json'), written: 1, leftOut: 1 }
  expect(result('process-dataset', ...files, '--max_words', '4')).toEqual(kept)
})
