/** Model directories found in practice: with leftover, missing, or contradictory files. */
import { cpSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { ConfigError, NonFiniteError, TokenizerError } from '../../lib/errors.js'
import { readGguf } from '../../lib/formats/gguf/gguf.js'
import { openModelWeights } from '../../lib/formats/model-files.js'
import { renamedSource } from '../../lib/formats/names.js'
import { openSafetensors } from '../../lib/formats/safetensors/safetensors.js'
import { writeSafetensors } from '../../lib/formats/safetensors/safetensors-writer.js'
import { tensorsToWrite } from '../../lib/formats/transform.js'
import { readTensor } from '../../lib/io/stream.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import { convertModel } from '../../lib/tools/convert.js'
import { inspect } from '../../lib/tools/inspect.js'
import { makeShards } from '../../lib/tools/make-shards.js'
import type { TrainEvent } from '../../lib/train/events.js'
import { Trainer } from '../../lib/train/trainer.js'
import { fixtures, temporaryDirectory } from '../formats/helpers.js'
import { readSafetensors } from '../support/fixtures.js'

const root = temporaryDirectory()
const d100 = path.join(fixtures, 'd100')
const fresh = () => path.join(root, `case-${readdirSync(root).length}`)
const json = (directory: string, file: string) => JSON.parse(readFileSync(path.join(directory, file), 'utf8'))

/** A copy of d100 with other JSON files. */
function model(changes: Record<string, object> = {}): string {
  const directory = fresh()
  cpSync(d100, directory, { recursive: true })
  for (const [file, change] of Object.entries(changes)) {
    const before = existsSync(path.join(directory, file)) ? json(directory, file) : {}
    writeFileSync(path.join(directory, file), JSON.stringify({ ...before, ...change }))
  }
  return directory
}

/** The weights under other names. */
async function rename(directory: string, nameOf: (name: string) => string | undefined): Promise<void> {
  const file = path.join(directory, 'model.safetensors')
  const source = await openSafetensors(file)
  const kept = [...source.tensors.keys()].filter((name) => nameOf(name) !== undefined)
  const part = { ...source, tensors: new Map(kept.map((name) => [name, source.tensors.get(name)!])) }
  const renamed = renamedSource(part, new Map(kept.map((name) => [name, nameOf(name)!])))
  await writeSafetensors(`${file}.new`, tensorsToWrite(renamed))
  await source.close()
  renameSync(`${file}.new`, file)
}

async function withValues(directory: string, values: Record<string, number[]>): Promise<void> {
  const file = path.join(directory, 'model.safetensors')
  const source = await openSafetensors(file)
  const tensors = [...source.tensors.values()].map(async ({ name, dtype, shape }) => {
    const bytes = new Uint8Array(await readTensor(source, name))
    new Float32Array(bytes.buffer).set(values[name] ?? [])
    return { name, dtype, shape, data: () => bytes }
  })
  await writeSafetensors(`${file}.new`, await Promise.all(tensors))
  await source.close()
  renameSync(`${file}.new`, file)
}

const warningsOf = async (directory: string) => {
  const warnings: string[] = []
  const options = {
    device: 'cpu',
    dtype: 'float32',
    onWarning: (message: string) => void warnings.push(message),
  } as const
  const loaded = await LlamaForCausalLM.fromPretrained(directory, options)
  return { loaded, warnings }
}

describe('a model whose config ties the output to the embedding', () => {
  it('a tied model is untied if its weights contain a different output, as in Transformers', async () => {
    const directory = model({ 'config.json': { tie_word_embeddings: true } })
    const { loaded, warnings } = await warningsOf(directory)
    using untied = loaded
    const golden = await readSafetensors(path.join(fixtures, 'd100.golden.safetensors'))
    const ids = golden.get('input_ids')!.numbers.slice(0, 37)
    const [logits] = await untied.logits([ids])
    golden
      .get('logits')!
      .numbers.slice(0, 37 * 512)
      .forEach((value, i) => {
        expect(Math.abs(logits[i]! - value)).toBeLessThan(1e-4)
      })
    expect(warnings).toEqual([expect.stringContaining('the weights hold another lm_head.weight')])
    const saved = fresh()
    await untied.savePretrained(saved)
    expect(json(saved, 'config.json')).toMatchObject({ tie_word_embeddings: false })
  })

  it('a tied model with a different output is converted untied, with a message', async () => {
    const directory = model({ 'config.json': { tie_word_embeddings: true } })
    const shards = await makeShards({ modelPath: directory, output: fresh() })
    expect(shards.warnings).toEqual([expect.stringContaining('the weights hold another lm_head.weight')])
    expect(json(shards.output, 'config.json')).toMatchObject({ tie_word_embeddings: false })
    const output = path.join(root, 'untied.gguf')
    expect((await convertModel(directory, output, { to: 'gguf' })).warnings).toEqual(shards.warnings)
    const gguf = await readGguf(output)
    expect(gguf.tensors.has('output.weight')).toBe(true)
    await gguf.close()
    const { whole, notes } = await inspect(directory)
    expect({ whole, notes }).toEqual({ whole: true, notes: shards.warnings })
  })

  it('a model stays tied if the weights contain the embedding twice', async () => {
    const directory = model({ 'config.json': { tie_word_embeddings: true } })
    const file = path.join(directory, 'model.safetensors')
    const source = await openSafetensors(file)
    const embedding = new Uint8Array(await readTensor(source, 'model.embed_tokens.weight'))
    const twice = tensorsToWrite(source).map((tensor) =>
      tensor.name === 'lm_head.weight' ? { ...tensor, data: () => embedding } : tensor,
    )
    await writeSafetensors(`${file}.new`, twice)
    await source.close()
    renameSync(`${file}.new`, file)
    const { loaded, warnings } = await warningsOf(directory)
    using tied = loaded
    expect([tied.config.tieWordEmbeddings, warnings]).toEqual([true, []])
  })

  it('a model stays tied if the weights contain only the output, which then serves as the embedding', async () => {
    const directory = model({ 'config.json': { tie_word_embeddings: true } })
    await rename(directory, (name) => (name === 'model.embed_tokens.weight' ? undefined : name))
    const { loaded, warnings } = await warningsOf(directory)
    using tied = loaded
    expect([tied.config.tieWordEmbeddings, warnings]).toEqual([true, []])
    expect((await inspect(directory)).problems).toEqual([])
  })
})

describe('weights under the names of a wrapper', () => {
  it('names of a wrapper are loaded, converted, and inspected', async () => {
    const directory = model()
    await rename(directory, (name) => `_orig_mod.module.${name}`)
    const { loaded } = await warningsOf(directory)
    loaded.dispose()
    const { whole, notes } = await inspect(directory)
    expect(whole).toBe(true)
    expect(notes).toEqual([expect.stringContaining('without "_orig_mod.", "module."')])
    await makeShards({ modelPath: directory, replace: true })
    const weights = await openModelWeights(directory)
    expect(weights.renaming.count).toBe(0)
    await weights.close()
  })

  it('unknown names are rejected with two expected names and two actual names', async () => {
    const directory = model()
    await rename(directory, (name) => `llm.${name}`)
    const message =
      /expected tensors such as model\.embed_tokens\.weight and model\.layers\.0\.input_layernorm\.weight, got llm\.\S+ and llm\.\S+: /
    await expect(warningsOf(directory)).rejects.toThrow(message)
    await expect(convertModel(directory, path.join(root, 'x.gguf'), { to: 'gguf' })).rejects.toThrow(message)
    expect((await inspect(directory)).problems).toEqual([expect.stringMatching(message)])
  })

  it('names of a bare LlamaModel without the output of an untied model are reported', async () => {
    const directory = model()
    await rename(directory, (name) => (name === 'lm_head.weight' ? undefined : name.replace('model.', '')))
    await expect(warningsOf(directory)).rejects.toThrow(
      /no tensor lm_head\.weight, .*save LlamaForCausalLM, not LlamaModel/,
    )
  })
})

describe('directories that are not models', () => {
  it('a PEFT adapter is identified, with the command that merges it', async () => {
    const directory = fresh()
    cpSync(d100, directory, { recursive: true })
    rmSync(path.join(directory, 'config.json'))
    renameSync(path.join(directory, 'model.safetensors'), path.join(directory, 'adapter_model.safetensors'))
    await expect(warningsOf(directory)).rejects.toThrow(ConfigError)
    await expect(warningsOf(directory)).rejects.toThrow(/holds a PEFT adapter, not a model: .*merge_and_unload\(\)/)
    await expect(makeShards({ modelPath: directory, output: fresh() })).rejects.toThrow(/holds a PEFT adapter/)
    expect(await inspect(directory)).toMatchObject({ kind: 'PEFT adapter', whole: false })
  })

  it.each(['config.json', 'model.safetensors', 'tokenizer.model', 'tokenizer_config.json', 'generation_config.json'])(
    'a Git LFS pointer is identified in %s',
    async (file) => {
      const directory = model()
      writeFileSync(path.join(directory, file), `version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n`)
      const message = `${path.join(directory, file)} is a Git LFS pointer, not the file itself: run "git lfs pull" in ${directory}`
      const { whole, problems } = await inspect(directory)
      expect(whole).toBe(false)
      expect(problems).toContain(message)
      await expect(makeShards({ modelPath: directory, output: fresh() })).rejects.toThrow(message)
    },
  )
})

describe('values that the new type cannot represent', () => {
  const values = {
    'model.layers.0.mlp.down_proj.weight': [1e5, -7e4, 65504, 65519, 65520],
    'model.norm.weight': [1e6],
  }
  const counts = { 'model.layers.0.mlp.down_proj.weight': 3, 'model.norm.weight': 1 }

  it('overflowing values are counted per tensor, and are an error under strict', async () => {
    const directory = model()
    await withValues(directory, values)
    const shards = await makeShards({ modelPath: directory, output: fresh(), dtype: 'float16' })
    expect(shards).toMatchObject({ overflows: 4, overflowing: counts })
    expect(shards.warnings).toEqual([
      expect.stringMatching(
        /^4 values of 2 tensors cannot be held by float16, .*down_proj\.weight \(3\), model\.norm\.weight \(1\)/,
      ),
    ])
    const options = { to: 'safetensors', dtype: 'float16' } as const
    const { warnings, overflows, overflowing } = await convertModel(directory, fresh(), options)
    expect({ warnings, overflows, overflowing }).toMatchObject({ warnings: shards.warnings, overflows: 4 })

    const output = fresh()
    await expect(makeShards({ modelPath: directory, output, dtype: 'float16', strict: true })).rejects.toThrow(
      NonFiniteError,
    )
    await expect(convertModel(directory, output, { ...options, strict: true })).rejects.toThrow(
      /nothing is written, since 4/,
    )
    expect(existsSync(output)).toBe(false)
  })

  it('overflowing values are counted in GGUF, including blocks of Q8_0', async () => {
    const directory = model()
    // A block of 32 has one scale: beyond 127 · 65504 it is infinite, and with it every value of the block.
    await withValues(directory, { 'model.embed_tokens.weight': [1e7], ...values })
    const output = path.join(root, 'overflow.gguf')
    const half = await convertModel(directory, output, { to: 'gguf', dtype: 'float16' })
    // Vectors stay float32; rows of 200 are not a multiple of a block, and stored as F16.
    const down = { 'model.layers.0.mlp.down_proj.weight': 3 }
    expect(half.overflowing).toEqual({ 'model.embed_tokens.weight': 1, ...down })
    const gqa = path.join(fresh())
    cpSync(path.join(fixtures, 'gqa'), gqa, { recursive: true })
    for (const file of ['tokenizer.model', 'tokenizer_config.json']) cpSync(path.join(d100, file), path.join(gqa, file))
    await withValues(gqa, { 'model.layers.1.mlp.up_proj.weight': [1e7, 1e7, ...new Array(30).fill(0), 1e4] })
    await expect(convertModel(gqa, output, { to: 'gguf', dtype: 'q8_0', strict: true })).rejects.toThrow(
      /32 values of 1 tensor cannot be held by q8_0/,
    )
    expect((await convertModel(gqa, output, { to: 'gguf', dtype: 'q8_0' })).overflowing).toEqual({
      'model.layers.1.mlp.up_proj.weight': 32,
    })
  })

  it('overflowing values are counted when a model is saved', async () => {
    const directory = model()
    await withValues(directory, values)
    const { loaded } = await warningsOf(directory)
    using saved = loaded
    const warnings: string[] = []
    const options = { dtype: 'float16', onWarning: (message: string) => void warnings.push(message) } as const
    expect(await saved.savePretrained(fresh(), options)).toEqual({ overflows: 4, overflowing: counts })
    expect(warnings).toEqual([expect.stringContaining('4 values of 2 tensors cannot be held by float16')])
    const output = fresh()
    await expect(saved.savePretrained(output, { dtype: 'float16', strict: true })).rejects.toThrow(NonFiniteError)
    expect(existsSync(output)).toBe(false)
    expect(await saved.savePretrained(fresh())).toEqual({ overflows: 0, overflowing: {} })
  })
})

describe('a tokenizer and an embedding of different sizes', () => {
  const trainer = async (directory: string) => {
    const { loaded } = await warningsOf(directory)
    using trained = loaded
    const tokenizer = await LlamaTokenizer.fromPretrained(directory)
    return new Trainer({ model: trained, tokenizer, data: [], maxLength: 64 })
  }

  it.each<[string, Record<string, object>]>([
    ['a padding token without an id', { 'tokenizer_config.json': { pad_token: '[PAD]' } }],
    ['a padding token', { 'added_tokens.json': { '<pad>': 512 }, 'tokenizer_config.json': { pad_token: '<pad>' } }],
    ['special tokens', { 'added_tokens.json': { '<x>': 512, '<y>': 700 } }],
  ])('train, inspect, and convert handle a model in which %s has no row', async (_, changes) => {
    const directory = model(changes)
    await trainer(directory)
    const { whole, notes } = await inspect(directory)
    expect(whole).toBe(true)
    expect(notes).toEqual([expect.stringMatching(/^the tokenizer has \d+ ids, and the embedding 512 rows/)])
    expect((await convertModel(directory, path.join(root, 'pad.gguf'), { to: 'gguf' })).warnings).toEqual([])
  })

  it('throws if a text or the end token needs an id without a row', async () => {
    const end = model({ 'added_tokens.json': { '<|end|>': 512 }, 'tokenizer_config.json': { eos_token: '<|end|>' } })
    await expect(trainer(end)).rejects.toThrow(/the eos_token has the id 512, and the embedding 512 rows/)

    const small = model({ 'config.json': { vocab_size: 500 } })
    const file = path.join(small, 'model.safetensors')
    const source = await openSafetensors(file)
    const cut = tensorsToWrite(source).map((tensor) => {
      if (tensor.shape[0] !== 512) return tensor
      const data = async () => new Uint8Array((await readTensor(source, tensor.name)).subarray(0, 500 * 200 * 4))
      return {
        ...tensor,
        shape: [500, 200],
        async *data() {
          yield await data()
        },
      }
    })
    await writeSafetensors(`${file}.new`, cut)
    await source.close()
    renameSync(`${file}.new`, file)
    const message = 'the tokenizer.model has 512 pieces, and the embedding 500 rows'
    await expect(trainer(small)).rejects.toThrow(TokenizerError)
    await expect(trainer(small)).rejects.toThrow(message)
    expect((await inspect(small)).problems).toEqual([expect.stringContaining(message)])
    const { warnings } = await convertModel(small, path.join(root, 'small.gguf'), { to: 'gguf' })
    expect(warnings).toEqual([expect.stringContaining(message)])
  })
})

describe('auxiliary files of a model', () => {
  const bitsandbytes = { quant_method: 'bitsandbytes', load_in_4bit: true }

  it('a quantization_config is dropped if the weights are plain', async () => {
    const directory = model({ 'config.json': { quantization_config: bitsandbytes } })
    expect((await inspect(directory)).notes).toEqual([expect.stringContaining('config.json has a quantization_config')])
    const { output } = await makeShards({ modelPath: directory, output: fresh() })
    expect(json(output, 'config.json')).not.toHaveProperty('quantization_config')
    const { loaded } = await warningsOf(directory)
    using saved = loaded
    const target = fresh()
    await saved.savePretrained(target)
    expect(json(target, 'config.json')).not.toHaveProperty('quantization_config')
    await makeShards({ modelPath: directory, replace: true })
    expect(json(directory, 'config.json')).not.toHaveProperty('quantization_config')
  })

  it('chat_template.jinja is saved, and becomes part of a GGUF file', async () => {
    const directory = model({ 'tokenizer_config.json': { chat_template: 'of the config' } })
    writeFileSync(path.join(directory, 'chat_template.jinja'), '{{ messages }}')
    const { loaded } = await warningsOf(directory)
    using saved = loaded
    for (const tokenizer of [undefined, await LlamaTokenizer.fromPretrained(directory)]) {
      const target = fresh()
      await saved.savePretrained(target, { tokenizer })
      expect(readFileSync(path.join(target, 'chat_template.jinja'), 'utf8')).toBe('{{ messages }}')
    }
    const tokenizer = await LlamaTokenizer.fromPretrained(directory)
    const data = [{ instruction: 'Say a.', input: '', output: 'a' }]
    const trainer = new Trainer({ model: saved, tokenizer, data, batchSize: 1, epochs: 1, maxLength: 128 })
    const warnings: string[] = []
    const handle = (event: TrainEvent) => void (event.type === 'warning' && warnings.push(event.message))
    await trainer.train({ subscribers: [{ handle, close() {} }] })
    expect(tokenizer.chatTemplate).toBe('{{ messages }}')
    expect(warnings).toContainEqual(expect.stringContaining('the model keeps its own chat template'))

    expect(await chatTemplates(directory)).toEqual({ 'tokenizer.chat_template': '{{ messages }}' })
    rmSync(path.join(directory, 'chat_template.jinja'))
    writeFileSync(path.join(directory, 'chat_template.json'), JSON.stringify({ chat_template: 'of the processor' }))
    expect(await chatTemplates(directory)).toEqual({ 'tokenizer.chat_template': 'of the config' })
  })

  it('named chat templates are stored in a GGUF file under the names of gguf-py', async () => {
    const list = [
      { name: 'default', template: 'a' },
      { name: 'tool-use', template: 'b' },
    ]
    expect(await chatTemplates(model({ 'tokenizer_config.json': { chat_template: list } }))).toEqual({
      'tokenizer.chat_template': 'a',
      'tokenizer.chat_template.tool_use': 'b',
      'tokenizer.chat_templates': ['tool_use'],
    })
    const processor = model({ 'chat_template.json': { chat_template: 'of the processor' } })
    expect(await chatTemplates(processor)).toEqual({ 'tokenizer.chat_template': 'of the processor' })
  })

  async function chatTemplates(directory: string) {
    const output = path.join(root, 'template.gguf')
    await convertModel(directory, output, { to: 'gguf' })
    const gguf = await readGguf(output)
    await gguf.close()
    return Object.fromEntries([...gguf.metadata].filter(([key]) => key.startsWith('tokenizer.chat_template')))
  }
})
