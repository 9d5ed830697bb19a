import { copyFileSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { type GgufTensorToWrite, type GgufValue, writeGguf } from '../../lib/formats/gguf/gguf-writer.js'
import { convertModel } from '../../lib/tools/convert.js'
import { inspect } from '../../lib/tools/inspect.js'
import { fixtures, rejection, temporaryDirectory } from '../formats/helpers.js'

const root = temporaryDirectory()
const model = path.join(root, 'd100.gguf')

beforeAll(() => convertModel(path.join(fixtures, 'd100'), model, { to: 'gguf', dtype: 'bfloat16', name: 'Small' }))

const text = (value: string): GgufValue => ({ type: 'string', value })
const size = (value: number): GgufValue => ({ type: 'uint32', value })

/** The problems of a file with this metadata and one tensor. */
async function problemsOf(metadata: Record<string, GgufValue>, tensors: GgufTensorToWrite[] = []): Promise<string[]> {
  const file = path.join(mkdtempSync(path.join(root, 'made-')), 'made.gguf')
  await writeGguf(file, { metadata: new Map(Object.entries(metadata)), tensors })
  const { problems, whole } = await inspect(file)
  expect(whole).toBe(problems.length === 0)
  return problems
}

const tiny = {
  'general.architecture': text('llama'),
  'llama.embedding_length': size(4),
  'llama.feed_forward_length': size(6),
  'llama.block_count': size(1),
  'llama.attention.head_count': size(2),
  'llama.context_length': size(8),
  'llama.vocab_size': size(3),
}

describe('inspecting a GGUF file', () => {
  it('inspect prints architecture, tensors, types, and tokenizer of a GGUF file', async () => {
    const inspection = await inspect(model)
    const { parameters } = await inspect(path.join(fixtures, 'd100'))
    expect(inspection).toMatchObject({
      kind: 'GGUF file',
      files: [{ name: 'd100.gguf', bytes: readFileSync(model).length }],
      gguf: { version: 3, architecture: 'llama', metadata: { 'general.name': 'Small' } },
      tokenizer: { file: 'd100.gguf', vocabSize: 512, model: 'llama' },
      config: { architectures: ['LlamaForCausalLM'], vocab_size: 512 },
      parameters,
      checksums: null,
      problems: [],
      whole: true,
    })
    expect(inspection.gguf!.metadata['tokenizer.ggml.tokens']).toEqual({ length: 512 })
    expect(Object.keys(inspection.dtypes).sort()).toEqual(['BF16', 'F32'])
    expect(() => JSON.stringify(inspection)).not.toThrow()
  })

  it('inspect recognizes GGUF by its first bytes, and reads every type of its metadata', async () => {
    const blob = path.join(root, 'sha256-0123')
    copyFileSync(path.join(fixtures, 'gguf/reference.gguf'), blob)
    const { kind, gguf, tensors } = await inspect(blob)
    expect(kind).toBe('GGUF file')
    expect(gguf!.metadata).toMatchObject({ 'test.uint64': String(2n ** 63n + 1n), 'test.bools': [1, 0, 1] })
    expect(tensors.map(({ dtype }) => dtype)).toEqual(['F32', 'F16', 'BF16', 'Q8_0', 'F32'])
  })

  it('inspect reports an incomplete GGUF file: cut short, or without its tensors or sizes', async () => {
    const cut = path.join(root, 'cut.gguf')
    writeFileSync(cut, readFileSync(model).subarray(0, -40))
    const { whole, problems, tensors } = await inspect(cut)
    expect([whole, tensors]).toEqual([false, []])
    expect(problems).toEqual([expect.stringMatching(/cut\.gguf is cut short/)])

    const embedding = (rows: number) => ({
      ...{ name: 'token_embd.weight', type: 'F32' as const, shape: [rows, 4] },
      data: () => new Uint8Array(16 * rows),
    })
    expect(await problemsOf(tiny, [embedding(2)])).toEqual([
      expect.stringMatching(/made\.gguf: token_embd\.weight has shape \[2, 4\] instead of \[3, 4\]$/),
      expect.stringMatching(/blk\.0\.attn_norm\.weight is missing$/),
      ...[1, 2, 3].map(() => expect.stringMatching(/is missing$/)),
      expect.stringMatching(/6 more tensors do not fit$/),
    ])
    const { 'llama.block_count': _, ...without } = tiny
    expect(await problemsOf(without)).toEqual([expect.stringMatching(/num_hidden_layers/)])
    expect(await problemsOf({})).toEqual([expect.stringMatching(/general\.architecture is missing/)])
  })

  it("inspect does not require a LLaMA's contents of other architectures, adapters, and parts", async () => {
    expect(await problemsOf({ 'general.architecture': text('qwen2') })).toEqual([])
    expect(await problemsOf({ ...tiny, 'general.type': text('adapter') })).toEqual([])
    expect(await problemsOf({ ...tiny, 'llama.expert_count': size(8) })).toEqual([])
    expect(await problemsOf({ ...tiny, 'split.count': size(3) })).toEqual([expect.stringMatching(/one of 3 parts/)])
  })

  it('inspect finds scores that do not match the tokens, and points to a file in a directory', async () => {
    const tokens: GgufValue = { type: 'array', of: 'string', value: ['a', 'b'] }
    const scores: GgufValue = { type: 'array', of: 'float32', value: [0] }
    const metadata = {
      'general.architecture': text('x'),
      'tokenizer.ggml.tokens': tokens,
      'tokenizer.ggml.scores': scores,
    }
    expect(await problemsOf(metadata)).toEqual([expect.stringMatching(/scores has 1 elements for 2 tokens/)])
    const directory = mkdtempSync(path.join(root, 'only-'))
    copyFileSync(model, path.join(directory, 'a.gguf'))
    expect((await rejection(inspect(directory))).message).toMatch(/did you mean .*a\.gguf\?/)
  })
})
