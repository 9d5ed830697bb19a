import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { CheckpointError, TokenizerError } from '../../lib/errors.js'
import { readGguf } from '../../lib/formats/gguf/gguf.js'
import { openModelWeights } from '../../lib/formats/model-files.js'
import type { RopeJson } from '../../lib/model/rope-config.js'
import { type ConvertOptions, convertModel } from '../../lib/tools/convert.js'
import { contentsOf, fixtures, rejection, temporaryDirectory } from '../formats/helpers.js'

const root = temporaryDirectory()
const d100 = path.join(fixtures, 'd100')
const expected: Record<string, Record<string, [type: string, shape: number[], sha256: string]>> = JSON.parse(
  readFileSync(path.join(fixtures, 'gguf/converted.json'), 'utf8'),
)

/** A fixture's model with d100's tokenizer, which most of them lack. */
function model(name: string, changeConfig: (config: Record<string, unknown>) => object = (config) => config): string {
  const directory = path.join(root, `${name}-${readdirSync(root).length}`)
  cpSync(path.join(fixtures, name), directory, { recursive: true })
  for (const file of ['tokenizer.model', 'tokenizer_config.json', 'special_tokens_map.json']) {
    cpSync(path.join(d100, file), path.join(directory, file))
  }
  const config = path.join(directory, 'config.json')
  writeFileSync(config, JSON.stringify(changeConfig(JSON.parse(readFileSync(config, 'utf8')))))
  return directory
}

async function convertedTo(directory: string, options: Omit<ConvertOptions, 'to'>) {
  const file = path.join(root, 'converted.gguf')
  await convertModel(directory, file, { to: 'gguf', ...options })
  return readGguf(file)
}

describe('converting to GGUF', () => {
  it.each(Object.keys(expected))("convert to GGUF matches the tensors of llama.cpp's converter: %s", async (name) => {
    const [fixture, type] = name.split('/') as [string, string]
    const dtypes = { F32: 'float32', F16: 'float16', BF16: 'bfloat16', Q8_0: 'q8_0' } as Record<
      string,
      ConvertOptions['dtype']
    >
    const source = await convertedTo(model(fixture), { dtype: dtypes[type] })
    const made: (typeof expected)[string] = {}
    for (const { name: tensor, type: stored, shape, bytes } of source.tensors.values()) {
      if (tensor === 'rope_freqs.weight') continue
      const data = Buffer.alloc(bytes)
      await source.read(tensor, 0, data)
      made[tensor] = [stored, [...shape], createHash('sha256').update(data).digest('hex')]
    }
    expect(made).toEqual(expected[name])
    await source.close()
  })

  it('convert to GGUF describes the architecture', async () => {
    const source = await convertedTo(model('gqa'), { dtype: 'float32', name: 'a model' })
    expect(Object.fromEntries(source.metadata)).toMatchObject({
      'general.architecture': 'llama',
      'general.type': 'model',
      'general.name': 'a model',
      'general.file_type': 0,
      'general.quantization_version': 2,
      'llama.block_count': 3,
      'llama.context_length': 2048,
      'llama.embedding_length': 128,
      'llama.feed_forward_length': 176,
      'llama.attention.head_count': 4,
      'llama.attention.head_count_kv': 2,
      'llama.attention.key_length': 32,
      'llama.attention.value_length': 32,
      'llama.attention.layer_norm_rms_epsilon': Math.fround(1e-6),
      'llama.rope.dimension_count': 32,
      'llama.rope.freq_base': 500000,
      'llama.vocab_size': 320,
    })
    expect([...source.tensors.keys()]).not.toContain('output.weight') // tied
    await source.close()
    const headOf100 = await convertedTo(d100, {})
    expect(headOf100.metadata.get('llama.rope.dimension_count')).toBe(100)
    expect([...headOf100.tensors.keys()]).toContain('output.weight')
    await headOf100.close()
  })

  it('convert to GGUF includes the tokenizer: pieces, scores, types, and the tokens around a text', async () => {
    const source = await convertedTo(d100, { dtype: 'float16' })
    const { metadata } = source
    const tokens = metadata.get('tokenizer.ggml.tokens') as string[]
    const types = metadata.get('tokenizer.ggml.token_type') as Int32Array
    const scores = metadata.get('tokenizer.ggml.scores') as Float32Array
    expect([tokens.length, types.length, scores.length]).toEqual([512, 512, 512])
    expect(tokens.slice(0, 4)).toEqual(['<unk>', '<s>', '</s>', '<0x00>'])
    expect([...types.slice(0, 4)]).toEqual([2, 3, 3, 6])
    expect(types[511]).toBe(1)
    const merges = [...scores.slice(259)]
    expect(merges).toEqual([...merges].sort((a, b) => b - a)) // BPE: the first merge has the highest score
    expect(merges[1]).toBeLessThan(0)
    expect(Object.fromEntries(metadata)).toMatchObject({
      'tokenizer.ggml.model': 'llama',
      'tokenizer.ggml.bos_token_id': 1,
      'tokenizer.ggml.eos_token_id': 2,
      'tokenizer.ggml.unknown_token_id': 0,
      'tokenizer.ggml.add_bos_token': true,
      'tokenizer.ggml.add_eos_token': false,
      'tokenizer.ggml.add_space_prefix': true,
    })
    await source.close()
  })

  it('convert to GGUF names added tokens, and pads to the rows of the embedding', async () => {
    const directory = model('d100')
    // 8 pieces fewer in the tokenizer than rows: as if the embedding had been enlarged by 8.
    const json = { '510': { content: '<|user|>', special: true }, '511': { content: '▁wide', special: false } }
    writeFileSync(
      path.join(directory, 'tokenizer_config.json'),
      JSON.stringify({ add_bos_token: false, chat_template: '{{ x }}', added_tokens_decoder: json }),
    )
    const bytes = readFileSync(path.join(directory, 'tokenizer.model'))
    writeFileSync(path.join(directory, 'tokenizer.model'), withoutLastPieces(bytes, 8))
    const source = await convertedTo(directory, { dtype: 'float16' })
    const tokens = source.metadata.get('tokenizer.ggml.tokens') as string[]
    expect(tokens.slice(503)).toEqual([
      expect.any(String),
      ...[504, 505, 506, 507, 508, 509].map((id) => `[PAD${id}]`),
      '<|user|>',
      '▁wide',
    ])
    expect([...(source.metadata.get('tokenizer.ggml.token_type') as Int32Array).slice(503)]).toEqual([
      1, 5, 5, 5, 5, 5, 5, 3, 4,
    ])
    expect(source.metadata.get('tokenizer.ggml.add_bos_token')).toBe(false)
    expect(source.metadata.get('tokenizer.chat_template')).toBe('{{ x }}')
    await source.close()
  })

  it("convert to GGUF scales RoPE's frequencies like Llama 3.1", async () => {
    const source = await convertedTo(model('llama3_rope'), { dtype: 'float32' })
    const bytes = Buffer.alloc(16)
    await source.read('rope_freqs.weight', 0, bytes)
    const factors = [...new Float32Array(new Uint8Array(bytes).buffer)]
    // θ = 500: wavelengths 6.28, 29.7, 140, 664 against the bounds 32 / 4 and 32 / 1.
    const wavelength = 2 * Math.PI * 500 ** (2 / 8)
    const smooth = (32 / wavelength - 1) / (4 - 1)
    expect(factors[0]).toBe(1)
    expect(factors[1]).toBeCloseTo(1 / ((1 - smooth) / 8 + smooth), 4)
    expect(factors.slice(2)).toEqual([8, 8])
    await source.close()
  })

  it("convert to GGUF stores linear and YaRN scaling under llama.cpp's keys", async () => {
    const scalingOf = async (scaling: RopeJson) => {
      const directory = model('d100', (config) => ({ ...config, rope_scaling: scaling }))
      const source = await convertedTo(directory, { dtype: 'float32' })
      await source.close()
      expect(source.tensors.has('rope_freqs.weight')).toBe(false)
      const keys = [...source.metadata].filter(([key]) => key.startsWith('llama.rope.scaling.'))
      return Object.fromEntries(keys.map(([key, value]) => [key.slice('llama.rope.scaling.'.length), value]))
    }
    expect(await scalingOf({ type: 'linear', factor: 4 })).toEqual({ type: 'linear', factor: 4 })
    expect(await scalingOf({ type: 'dynamic', factor: 4 })).toEqual({})
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 512, beta_fast: 16 }
    const stored = { type: 'yarn', factor: 4, original_context_length: 512, yarn_beta_fast: 16, yarn_beta_slow: 1 }
    expect(await scalingOf(yarn)).toEqual(stored)
    const factor = Math.fround(1.5 / (0.1 * Math.log(4) + 1)) // llama.cpp multiplies by the divisor
    expect(await scalingOf({ ...yarn, attention_factor: 1.5 })).toEqual({ ...stored, attn_factor: factor })
    await expect(scalingOf({ ...yarn, truncate: false })).rejects.toThrow(/no form for YaRN with "truncate": false/)
  })

  it('convert to GGUF rejects models that it cannot represent, and writes nothing', async () => {
    const output = path.join(root, 'refused.gguf')
    const convert = (directory: string) => convertModel(directory, output, { to: 'gguf' })
    const other = model('d100', (config) => ({ ...config, num_hidden_layers: 3 }))
    expect((await rejection(convert(other))).message).toMatch(/no tensor model\.layers\.2/)
    const wide = model('d100', (config) => ({ ...config, vocab_size: 513 }))
    expect((await rejection(convert(wide))).message).toMatch(
      /has shape \[512, 200\], but config.json asks for \[513, 200\]/,
    )
    const unigram = model('d100')
    const tokenizerFile = path.join(unigram, 'tokenizer.model')
    writeFileSync(tokenizerFile, withModelType(readFileSync(tokenizerFile), 1))
    await expect(convert(unigram)).rejects.toThrow(TokenizerError)
    await expect(convert(unigram)).rejects.toThrow(/of type Unigram/)
    expect(existsSync(output)).toBe(false)
    mkdirSync(output)
    expect((await rejection(convert(d100))).message).toMatch(/a directory has that name/)
  })
})

describe('converting a model directory', () => {
  it('changes the dtype of weights and config, and back without loss if the values allow it', async () => {
    const half = path.join(root, 'half')
    const single = path.join(root, 'single')
    await convertModel(d100, half, { to: 'safetensors', dtype: 'bfloat16', maxShardSize: '500KB' })
    await convertModel(half, single, { to: 'safetensors', dtype: 'float32' })
    expect(readdirSync(half)).toContain('model.safetensors.index.json')
    expect(JSON.parse(readFileSync(path.join(half, 'config.json'), 'utf8'))).toMatchObject({ torch_dtype: 'bfloat16' })
    for (const file of ['tokenizer.model', 'tokenizer_config.json', 'special_tokens_map.json']) {
      expect(readFileSync(path.join(half, file))).toEqual(readFileSync(path.join(d100, file)))
    }
    const [a, b] = [await openModelWeights(half), await openModelWeights(single)]
    const [halves, singles] = [await contentsOf(a), await contentsOf(b)]
    expect(Object.keys(singles)).toHaveLength(21)
    for (const [name, { dtype, bytes }] of Object.entries(singles)) {
      expect([dtype, halves[name]!.dtype]).toEqual(['float32', 'bfloat16'])
      expect(bytes).toBe(halves[name]!.bytes.replace(/(....)/g, '0000$1')) // little-endian: the low half is zero
    }
    await a.close()
    await b.close()
  })

  it('reads and writes torch files, and keeps the dtype by default', async () => {
    const source = model('gqa')
    const output = path.join(root, 'from-bin')
    cpSync(path.join(fixtures, 'torch_bin/module_f16.bin'), path.join(source, 'pytorch_model.bin'))
    rmSync(path.join(source, 'model.safetensors'))
    await convertModel(source, output, { to: 'safetensors' })
    const weights = await openModelWeights(output)
    expect([...new Set([...weights.tensors.values()].map(({ dtype }) => dtype))]).toEqual(['float16'])
    await weights.close()
    const again = path.join(root, 'to-bin')
    await convertModel(output, again, { to: 'bin', dtype: 'float32' })
    const singles = await openModelWeights(again)
    expect(readdirSync(again)).toContain('pytorch_model.bin')
    expect([...new Set([...singles.tensors.values()].map(({ dtype }) => dtype))]).toEqual(['float32'])
    await singles.close()
    expect(JSON.parse(readFileSync(path.join(again, 'config.json'), 'utf8')).dtype).toBe('float32')
  })

  it('does not overwrite its source', async () => {
    const directory = model('gqa')
    expect((await rejection(convertModel(directory, `${directory}/.`, { to: 'safetensors' }))).message).toMatch(
      /already exists/,
    )
    await expect(convertModel(directory, path.join(root, 'x'), { to: 'safetensors', dtype: 'q8_0' })).rejects.toThrow(
      /q8_0 is only available for GGUF/,
    )
  })

  it('lists the missing files of a directory without a model', async () => {
    await expect(convertModel(root, path.join(root, 'y'), { to: 'gguf' })).rejects.toThrow(
      /config\.json cannot be read/,
    )
    const bare = model('gqa')
    rmSync(path.join(bare, 'model.safetensors'))
    await expect(convertModel(bare, path.join(root, 'y'), { to: 'gguf' })).rejects.toThrow(CheckpointError)
  })
})

/** Top-level fields of a protobuf, as [number, all bytes]. */
function fieldsOf(bytes: Buffer): [field: number, bytes: Buffer][] {
  const varint = (at: number): [number, number] => {
    let [value, shift] = [0, 0]
    for (;;) {
      const byte = bytes[at++]!
      value += (byte & 0x7f) * 2 ** shift
      shift += 7
      if (byte < 0x80) return [value, at]
    }
  }
  const result: [number, Buffer][] = []
  for (let at = 0; at < bytes.length; ) {
    const [key, afterKey] = varint(at)
    const [length, start] = varint(afterKey) // every top-level field is a message
    result.push([key >>> 3, bytes.subarray(at, start + length)])
    at = start + length
  }
  return result
}

function withoutLastPieces(bytes: Buffer, count: number): Buffer {
  const fields = fieldsOf(bytes)
  const pieces = fields.filter(([field]) => field === 1)
  const dropped = new Set(pieces.slice(-count))
  return Buffer.concat(fields.filter((field) => !dropped.has(field)).map(([, part]) => part))
}

/** The model with another TrainerSpec.model_type after the first: the last value of a field counts. */
function withModelType(bytes: Buffer, type: number): Buffer {
  return Buffer.concat([bytes, Buffer.of(2 * 8 + 2, 2, 3 * 8, type)])
}
