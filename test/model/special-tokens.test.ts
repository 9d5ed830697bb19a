import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { addEndToken, generationJson, readConfig } from '../../lib/model/config.js'
import { specialTokenNotes } from '../../lib/model/special-tokens.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import { convertModel } from '../../lib/tools/convert.js'
import { inspect } from '../../lib/tools/inspect.js'
import { fixtures } from '../support/fixtures.js'

const d100 = path.join(fixtures, 'd100')
const scratch = mkdtempSync(path.join(tmpdir(), 'openalpaca-'))
afterAll(() => rmSync(scratch, { recursive: true }))

interface Files {
  config?: Record<string, unknown>
  generation?: unknown
  tokenizer?: Record<string, unknown>
}

let count = 0
/** d100 with other special tokens in its files; null in `config` removes a key. */
function modelWith({ config, generation, tokenizer }: Files): string {
  const directory = path.join(scratch, String(count++))
  cpSync(d100, directory, { recursive: true })
  const change = (name: string, changes: object) => {
    const file = path.join(directory, name)
    const json = { ...JSON.parse(readFileSync(file, 'utf8')), ...changes }
    const kept = Object.fromEntries(Object.entries(json).filter(([, value]) => value !== null))
    writeFileSync(file, JSON.stringify(kept))
  }
  if (config) change('config.json', config)
  if (tokenizer) change('tokenizer_config.json', tokenizer)
  const file = path.join(directory, 'generation_config.json')
  if (generation) writeFileSync(file, JSON.stringify(generation))
  else rmSync(file, { force: true })
  return directory
}

interface Case {
  name: string
  config: Record<string, unknown>
  generation: Record<string, unknown> | null
  used: { bos_token_id: number | null; eos_token_id: number | number[] | null }
}
const { cases } = JSON.parse(readFileSync(path.join(fixtures, 'end_tokens', 'cases.json'), 'utf8')) as { cases: Case[] }

describe('end tokens of a model', () => {
  it.each(cases)('generation uses the end tokens of Transformers: $name', async ({ config, generation, used }) => {
    const none = { bos_token_id: null, eos_token_id: null, pad_token_id: null }
    const directory = modelWith({ config: { ...none, ...config }, generation })
    const { bosTokenId, eosTokenIds } = await readConfig(directory)
    expect(eosTokenIds).toEqual([used.eos_token_id].flat())
    if (used.bos_token_id !== null) expect(bosTokenId).toBe(used.bos_token_id)
  })

  it('end tokens come from config.json if generation_config.json has none', async () => {
    expect((await readConfig(modelWith({ generation: { max_length: 20 } }))).eosTokenIds).toEqual([2])
  })

  it.each<[string, string, RegExp]>([
    ['text', '{"eos_token_id": "2"}', /generation_config\.json: eos_token_id: /],
    ['no object', '[1]', /generation_config\.json: /],
    ['no JSON', '{bad', /generation_config\.json is not JSON/],
  ])('rejects end tokens if generation_config.json contains %s', async (_, text, message) => {
    const directory = modelWith({ generation: {} })
    writeFileSync(path.join(directory, 'generation_config.json'), text)
    await expect(readConfig(directory)).rejects.toMatchObject({
      code: 'INVALID_CONFIG',
      message: expect.stringMatching(message),
    })
  })

  it('end tokens end an answer, and are saved as they were read', async () => {
    const generation = { eos_token_id: [511, 2], temperature: 0.6 }
    const directory = modelWith({ generation })
    using model = await LlamaForCausalLM.fromPretrained(directory, { device: 'cpu', dtype: 'float32' })
    const options = { maxNewTokens: 6 }
    const all = await model.generate([1, 40], { ...options, eosTokenId: null })
    writeFileSync(
      path.join(directory, 'generation_config.json'),
      JSON.stringify({ ...generation, eos_token_id: all[2] }),
    )
    using other = await LlamaForCausalLM.fromPretrained(directory, { device: 'cpu', dtype: 'float32' })
    expect(await other.generate([1, 40], options)).toEqual(all.slice(0, all.indexOf(all[2])))
    const output = path.join(scratch, 'saved')
    await model.savePretrained(output)
    const read = (name: string) => JSON.parse(readFileSync(path.join(output, name), 'utf8'))
    expect(read('generation_config.json')).toEqual(generation)
    expect(read('config.json').eos_token_id).toBe(2)
  })

  it('addEndToken adds a token to both files', async () => {
    const config = await readConfig(modelWith({ config: { eos_token_id: 1 }, generation: { eos_token_id: [1, 5] } }))
    addEndToken(config, 2)
    expect(config.eosTokenIds).toEqual([1, 5, 2])
    expect(config.json.eos_token_id).toEqual([1, 2])
    expect(generationJson(config)).toEqual({ eos_token_id: [1, 5, 2] })
  })
})

describe('files that disagree about special tokens', () => {
  const notesOf = async (files: Files) => {
    const directory = modelWith(files)
    return specialTokenNotes(await readConfig(directory), await LlamaTokenizer.fromPretrained(directory))
  }

  it('files that agree about special tokens give no note', async () => {
    expect(await notesOf({})).toEqual([])
    expect(await notesOf({ config: { eos_token_id: [2, 3] }, generation: { eos_token_id: [3, 2] } })).toEqual([])
  })

  it.each<[Files, RegExp]>([
    [
      { generation: { eos_token_id: [7, 2] } },
      /the end tokens are 7, 2 in generation_config\.json and 2 in config\.json/,
    ],
    [{ config: { eos_token_id: 1 } }, /end token 2, which training puts behind every answer, .* \(1\)/],
    [{ config: { eos_token_id: [2, 512] } }, /the end token 512 is outside the vocabulary of 512/],
    [{ config: { bos_token_id: 0 } }, /begins a text is 1 in the tokenizer and 0 in the model's files/],
    [{ tokenizer: { add_eos_token: true } }, /has add_eos_token: true/],
    [{ tokenizer: { add_bos_token: false } }, /has add_bos_token: false/],
  ])('notes disagreeing special tokens: %j', async (files, note) => {
    expect(await notesOf(files)).toEqual([expect.stringMatching(note)])
  })

  it('inspect and convert note disagreeing special tokens, and the GGUF file has all end tokens', async () => {
    const directory = modelWith({ generation: { eos_token_id: [7, 2, 9, 600] } })
    const { notes, whole } = await inspect(directory)
    expect(notes).toEqual([
      expect.stringMatching(/generation_config\.json decides/),
      expect.stringMatching(/600 is outside/),
    ])
    expect(whole).toBe(true)
    const output = path.join(scratch, 'model.gguf')
    const { warnings } = await convertModel(directory, output, { to: 'gguf' })
    expect(warnings).toEqual(notes.map((note) => `${directory}: ${note}`))
    const { gguf } = await inspect(output)
    const ids = ['eos', 'eot', 'eom'].map((kind) => gguf!.metadata[`tokenizer.ggml.${kind}_token_id`])
    expect(ids).toEqual([2, 7, 9])
  })
})

it('JSON files of a model may begin with a byte order mark', async () => {
  const directory = modelWith({ generation: { eos_token_id: 5 }, tokenizer: { add_eos_token: true } })
  const encodings: [string, (text: string) => Buffer][] = [
    ['config.json', (text) => Buffer.from(`\uFEFF${text}`)],
    ['generation_config.json', (text) => Buffer.from(`\uFEFF${text}`, 'utf16le')],
    ['tokenizer_config.json', (text) => Buffer.from(`\uFEFF${text}`, 'utf16le').swap16()],
  ]
  for (const [name, encode] of encodings) {
    const file = path.join(directory, name)
    writeFileSync(file, encode(readFileSync(file, 'utf8')))
  }
  expect((await readConfig(directory)).eosTokenIds).toEqual([5])
  expect((await LlamaTokenizer.fromPretrained(directory)).encode('a', { addSpecialTokens: true }).at(-1)).toBe(2)
  expect((await inspect(directory)).problems).toEqual([])
})
