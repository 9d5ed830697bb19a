import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { CheckpointError } from '../../lib/errors.js'
import type { ConfigJson } from '../../lib/model/config.js'
import { devices, deviceTypes } from '../support/devices.js'
import { fixtures } from '../support/fixtures.js'

const root = mkdtempSync(path.join(tmpdir(), 'model-'))
afterAll(() => rmSync(root, { recursive: true }))

const small: ConfigJson = {
  vocab_size: 61,
  hidden_size: 32,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 48,
  tie_word_embeddings: false,
  initializer_range: 0.2,
}

describe.each(devices)('on $name', ({ device }) => {
  it('a model with Llama 3’s RoPE scaling matches the logits of Transformers', async () => {
    const directory = path.join(fixtures, 'llama3_rope')
    const expected = JSON.parse(readFileSync(path.join(directory, 'expected.json'), 'utf8'))
    using model = await LlamaForCausalLM.fromPretrained(directory, { device, dtype: 'float32' })
    const [logits] = await model.logits([expected.ids])
    const last = logits.slice(-expected.last_logits.length)
    const largest = Math.max(...expected.last_logits.map(Math.abs))
    last.forEach((value, i) => {
      expect(Math.abs(value - expected.last_logits[i]) / largest).toBeLessThan(1e-4)
    })
  })
})

describe.each(deviceTypes)('on $name', ({ device }) => {
  it('a batch has the loss and gradients of its sequences processed one at a time', async () => {
    using model = LlamaForCausalLM.fromConfig(small, { device, dtype: 'float32', seed: 1 })
    const sequences = [
      [1, 5, 9, 2],
      [1, 7],
      [1, 30, 31, 32, 33, 34, 35, 36, 37],
      [1, 60, 2],
    ]
    const labels = sequences.map((ids, s) => ids.map((id, t) => (t > s % 2 ? id : -100)))
    const batch = await model.lossAndGradients(sequences, labels)
    const alone = []
    for (const [s, sequence] of sequences.entries()) alone.push(await model.lossAndGradients([sequence], [labels[s]]))
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
    // The second sequence has no label left, so it does not count in the mean.
    const learned = alone.filter((_, s) => labels[s].slice(1).some((label) => label >= 0))
    expect(batch.loss).toBeCloseTo(mean(learned.map(({ loss }) => loss)), 5)
    for (const [name, gradient] of batch.gradients) {
      const largest = gradient.reduce((max, value) => Math.max(max, Math.abs(value)), 1e-6)
      gradient.forEach((value, i) => {
        expect(Math.abs(value - mean(learned.map(({ gradients }) => gradients.get(name)![i])))).toBeLessThan(
          1e-5 * largest,
        )
      })
    }
  })

  it('the same seed gives the same weights, with or without masters, and another seed gives others', async () => {
    const weights = async (seed: number, masterWeights: boolean) => {
      using model = LlamaForCausalLM.fromConfig(small, { device, dtype: 'bfloat16', seed, masterWeights })
      return model.parameters.toMap(model.parameters.buffers.map((buffer) => buffer))
    }
    const first = await weights(3, false)
    expect(await weights(3, true)).toEqual(first)
    expect(await weights(4, false)).not.toEqual(first)
  })

  it('rejects invalid sequences with an error code', async () => {
    using model = LlamaForCausalLM.fromConfig(small, { device, dtype: 'float32' })
    const rejects = (sequences: number[][], code: string, message: RegExp) =>
      expect(model.logits(sequences)).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
    await rejects([[1, 61]], 'INVALID_TOKEN', /token id 61 is outside the model's vocabulary of 61/)
    await rejects([[1, -1]], 'INVALID_TOKEN', /token id -1/)
    await rejects([[1.5]], 'INVALID_TOKEN', /token id 1\.5/)
    await rejects([[1], []], 'EMPTY_SEQUENCE', /at least one token/)
    await rejects([Array(49).fill(1)], 'SEQUENCE_TOO_LONG', /of 49 tokens is longer than the model's context of 48/)
    await expect(model.lossAndGradients([[1, 2]], [[1]])).rejects.toThrow(/labels\[0\] must have the 2 entries/)
    await expect(model.lossAndGradients([[1, 2]], [[-100, 61]])).rejects.toMatchObject({ code: 'INVALID_TOKEN' })
    await expect(model.generate(Array(40).fill(1), { maxNewTokens: 9 })).rejects.toMatchObject({
      code: 'SEQUENCE_TOO_LONG',
    })
    await expect(model.generate([99])).rejects.toMatchObject({ code: 'INVALID_TOKEN' })
  })

  it('every method of a disposed model throws', async () => {
    const model = LlamaForCausalLM.fromConfig(small, { device, dtype: 'float32' })
    model.dispose()
    model.dispose()
    const disposed = { code: 'DISPOSED' }
    await expect(model.logits([[1]])).rejects.toMatchObject(disposed)
    await expect(model.generate([1])).rejects.toMatchObject(disposed)
    await expect(model.lossAndGradients([[1, 2]], [[1, 2]])).rejects.toMatchObject(disposed)
    await expect(model.savePretrained(path.join(root, 'never'))).rejects.toMatchObject(disposed)
  })
})

describe('a model directory', () => {
  const directory = path.join(root, 'model')
  beforeAll(async () => {
    using model = LlamaForCausalLM.fromConfig(small, { device: 'cpu', dtype: 'float32' })
    await model.savePretrained(directory)
  })

  it('a model saved as torch shards computes the same as one saved as safetensors', async () => {
    const shards = path.join(root, 'bin')
    using model = await LlamaForCausalLM.fromPretrained(directory, { device: 'cpu', dtype: 'float32' })
    await model.savePretrained(shards, { format: 'bin', maxShardSize: '20KB' })
    expect(existsSync(path.join(shards, 'pytorch_model.bin.index.json'))).toBe(true)
    using again = await LlamaForCausalLM.fromPretrained(shards, { device: 'cpu', dtype: 'float32' })
    expect(await again.logits([[1, 5, 9]])).toEqual(await model.logits([[1, 5, 9]]))
  })

  /** The error from loading a copy of the directory with one change. */
  async function failure(change: (copy: string) => void): Promise<Error> {
    const copy = mkdtempSync(path.join(root, 'copy-'))
    for (const name of ['config.json', 'model.safetensors']) {
      copyFileSync(path.join(directory, name), path.join(copy, name))
    }
    change(copy)
    const error = await LlamaForCausalLM.fromPretrained(copy, { device: 'cpu' }).then(
      () => new Error('it was loaded'),
      (error: Error) => error,
    )
    expect(error).toBeInstanceOf(CheckpointError)
    return error
  }
  const withConfig = (change: Partial<ConfigJson>) => (copy: string) => {
    writeFileSync(path.join(copy, 'config.json'), JSON.stringify({ ...small, ...change }))
  }

  it('names the expected files when the weights are missing', async () => {
    expect((await failure((copy) => rmSync(path.join(copy, 'model.safetensors')))).message).toMatch(
      /model\.safetensors/,
    )
  })

  it('names the file when the weights are cut short', async () => {
    const error = await failure((copy) => truncateSync(path.join(copy, 'model.safetensors'), 5000))
    expect(error.message).toMatch(/model\.safetensors .*(cut short|ends|whole)/)
  })

  it('names the tensor and both shapes when the config expects other shapes', async () => {
    expect((await failure(withConfig({ vocab_size: 62 }))).message).toMatch(
      /model\.embed_tokens\.weight has shape \[61, 32\], but config\.json asks for \[62, 32\]/,
    )
  })

  it('names a tensor when the config expects more layers, or fewer', async () => {
    expect((await failure(withConfig({ num_hidden_layers: 3 }))).message).toMatch(/have no tensor model\.layers\.2\./)
    expect((await failure(withConfig({ num_hidden_layers: 1 }))).message).toMatch(/has no tensor model\.layers\.1\./)
  })
})
