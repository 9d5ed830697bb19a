import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { ConfigError } from '../../lib/errors.js'
import { type ConfigJson, parseConfig, readConfig } from '../../lib/model/config.js'
import { inverseFrequencies } from '../../lib/model/rope.js'
import { fixtures } from '../support/fixtures.js'

const read = (name: string): ConfigJson => JSON.parse(readFileSync(path.join(fixtures, name, 'config.json'), 'utf8'))
const openllama = read('d100')

describe('a config.json', () => {
  it('parses a config.json in the format of OpenLLaMA', () => {
    expect(parseConfig(openllama)).toMatchObject({
      hiddenSize: 200,
      headDim: 100,
      numKeyValueHeads: 2,
      ropeTheta: 10000,
      ropeScaling: null,
      tieWordEmbeddings: false,
      eosTokenIds: [2],
    })
  })

  it('parses a config.json in the format of Transformers 5', () => {
    expect(parseConfig(read('gqa'))).toMatchObject({ headDim: 32, numKeyValueHeads: 2, ropeTheta: 500000 })
  })

  it('keeps all end tokens of a config.json', () => {
    expect(parseConfig(read('llama3_rope')).eosTokenIds).toEqual([2, 3])
  })

  it('computes the frequencies of Transformers for Llama 3’s RoPE scaling', () => {
    const { inv_freq: expected } = JSON.parse(readFileSync(path.join(fixtures, 'llama3_rope/expected.json'), 'utf8'))
    const actual = inverseFrequencies(parseConfig(read('llama3_rope')))
    expect(actual).toHaveLength(expected.length)
    actual.forEach((value, i) => {
      expect(Math.abs(value / expected[i] - 1)).toBeLessThan(3e-7)
    })
  })

  it('computes the same frequencies from the older format, rope_scaling next to rope_theta', () => {
    const { rope_parameters: parameters, ...rest } = read('llama3_rope')
    const { rope_theta, rope_type, ...scaling } = parameters!
    const older = parseConfig({ ...rest, rope_theta, rope_scaling: { type: rope_type, ...scaling } })
    expect(inverseFrequencies(older)).toEqual(inverseFrequencies(parseConfig(read('llama3_rope'))))
  })

  it.each<[string, Partial<ConfigJson> | Record<string, unknown>, RegExp]>([
    [
      'another architecture',
      { architectures: ['MistralForCausalLM'] },
      /unknown architecture MistralForCausalLM; only/,
    ],
    ['another model type', { architectures: null, model_type: 'gpt2' }, /unknown architecture gpt2/],
    ['biases', { attention_bias: true }, /biases are not supported/],
    ['another activation', { hidden_act: 'gelu' }, /expected hidden_act "silu", got "gelu"/],
    ['heads that do not divide', { hidden_size: 201 }, /201 over 2 heads gives heads of 100\.5/],
    ['key/value heads that do not divide', { num_key_value_heads: 3 }, /num_attention_heads 2 must be a multiple/],
    ['a size that is not a number', { vocab_size: 'many' }, /vocab_size: /],
    ['a size left out', { num_hidden_layers: undefined }, /num_hidden_layers: /],
  ])('throws ConfigError for a config.json with %s', (_, change, message) => {
    const parse = () => parseConfig({ ...openllama, ...change } as ConfigJson, 'model/config.json')
    expect(parse).toThrow(ConfigError)
    expect(parse).toThrow(message)
    expect(parse).toThrow(/^model\/config\.json: /)
  })

  it('asks for a missing config.json', async () => {
    await expect(readConfig(path.join(fixtures, 'nowhere'))).rejects.toThrow(
      /nowhere\/config\.json cannot be read; expected a Hugging Face model directory/,
    )
  })
})
