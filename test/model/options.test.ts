import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { buildInstance } from '../../lib/data/instances.js'
import { encodePrompt, formatPrompt } from '../../lib/data/prompt.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import { fixtures } from '../support/fixtures.js'

const d100 = path.join(fixtures, 'd100')

it.each<[string, () => unknown, string]>([
  [
    'an unknown option of fromPretrained',
    () => LlamaForCausalLM.fromPretrained(d100, { dType: 'float32' } as never),
    'fromPretrained: unknown option dType; did you mean dtype?',
  ],
  [
    'an unknown option of fromConfig',
    () => LlamaForCausalLM.fromConfig({} as never, { master_weights: true } as never),
    'fromConfig: unknown option master_weights; did you mean masterWeights?',
  ],
  [
    'a path that is not a string',
    () => LlamaForCausalLM.fromPretrained(undefined as never),
    'fromPretrained: modelPath: expected a string, got undefined',
  ],
  [
    'a tokenizer path that is not a string',
    () => LlamaTokenizer.fromPretrained({ path: d100 } as never),
    'fromPretrained: modelPath: expected a string, got an object',
  ],
  [
    'a text in the place of prompt fields',
    () => formatPrompt('text' as never),
    'formatPrompt: expected { instruction, input }, got "text"',
  ],
  [
    'a prompt without an instruction',
    () => formatPrompt({ input: 'text' } as never),
    'formatPrompt: instruction: expected a string, got undefined',
  ],
])('%s throws a TypeError with the expected type', async (_, call, message) => {
  await expect(async () => await call()).rejects.toThrow(new TypeError(message))
})

it('encodes a prompt as in training, regardless of add_bos_token and add_eos_token', async () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'openalpaca-'))
  try {
    cpSync(d100, directory, { recursive: true })
    const file = path.join(directory, 'tokenizer_config.json')
    const config = JSON.parse(readFileSync(file, 'utf8'))
    const row = { instruction: 'Name a color.', input: 'Not red.', output: 'Blue' }
    for (const flags of [{}, { add_eos_token: true }, { add_bos_token: false }]) {
      writeFileSync(file, JSON.stringify({ ...config, ...flags }))
      const tokenizer = await LlamaTokenizer.fromPretrained(directory)
      const ids = encodePrompt(tokenizer, row)
      expect(ids).toEqual([1, ...tokenizer.encode(formatPrompt(row), { addSpecialTokens: false })])
      const { inputIds, labels } = buildInstance(row, 0, tokenizer, 224)
      const learned = labels.findIndex((label, t) => t > 0 && label >= 0)
      expect([...inputIds.subarray(0, learned)]).toEqual(ids)
      expect(tokenizer.encode(formatPrompt(row))).toEqual(ids)
    }
  } finally {
    rmSync(directory, { recursive: true })
  }
})
