import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { ConfigError } from '../../lib/errors.js'
import { type ConfigJson, parseConfig } from '../../lib/model/config.js'
import { inverseFrequencies, ropeAmplitude } from '../../lib/model/rope.js'
import { temporaryDirectory } from '../formats/helpers.js'
import { fixtures } from '../support/fixtures.js'

/** The values that Transformers computes for a config.json with `change` applied; `error` if it does not load it. */
interface Variant {
  change: Partial<ConfigJson>
  inv_freq?: number[]
  attention_scaling?: number
  last_logits?: number[]
  error?: string
}

const directory = path.join(fixtures, 'rope')
const read = (name: string) => JSON.parse(readFileSync(path.join(directory, name), 'utf8'))
const base: ConfigJson = read('config.json')
const { ids, variants } = read('expected.json') as { ids: number[]; variants: Record<string, Variant> }
const temporary = temporaryDirectory()
const entries = Object.entries(variants)

describe('RoPE settings of config.json', () => {
  it.each(entries.filter(([, { error }]) => !error))(
    '%s matches the logits of Transformers',
    async (name, expected) => {
      const json = { ...base, ...expected.change }
      const config = parseConfig(json)
      inverseFrequencies(config).forEach((value, i) => {
        expect(Math.abs(value / expected.inv_freq![i]! - 1)).toBeLessThan(1e-6)
      })
      expect(ropeAmplitude(config)).toBeCloseTo(expected.attention_scaling!, 6)

      const variant = path.join(temporary, name)
      mkdirSync(variant)
      writeFileSync(path.join(variant, 'config.json'), JSON.stringify(json))
      symlinkSync(path.join(directory, 'model.safetensors'), path.join(variant, 'model.safetensors'))
      using model = await LlamaForCausalLM.fromPretrained(variant, { device: 'cpu', dtype: 'float32' })
      const [logits] = await model.logits([ids])
      const last = logits.slice(-base.vocab_size)
      expected.last_logits!.forEach((value, i) => {
        expect(Math.abs(last[i]! - value)).toBeLessThan(1e-4)
      })
    },
  )

  it.each(entries.filter(([, { error }]) => error))(
    '%s, which Transformers does not load, is rejected',
    (_, { change }) => {
      expect(() => parseConfig({ ...base, ...change })).toThrow(ConfigError)
    },
  )

  it.each([
    ['linear without a factor', 'RoPE scaling "linear" needs factor'],
    ['llama3 without its factors', 'RoPE scaling "llama3" needs low_freq_factor'],
    ['linear with a partial rotation', 'partial_rotary_factor 0.5 is not supported with RoPE scaling'],
    [
      'an unknown type',
      'expected RoPE scaling of a supported type (default, linear, dynamic, llama3, and yarn), got "ntk"',
    ],
  ])('%s is rejected by name', (name, message) => {
    expect(() => parseConfig({ ...base, ...variants[name]!.change }, 'x')).toThrow(`x: ${message}`)
  })

  it.each([
    ['longrope', { rope_type: 'longrope', short_factor: [1], long_factor: [2] }],
    ['proportional', { rope_type: 'proportional', factor: 2 }],
  ])('%s scaling, which no LLaMA uses, is rejected by name', (type, scaling) => {
    expect(() => parseConfig({ ...base, rope_scaling: scaling })).toThrow(`got "${type}"`)
  })
})
