import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import type { GenerateOptions } from '../../lib/generate/options.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import { deviceTypes } from '../support/devices.js'
import { fixtures } from '../support/fixtures.js'

const directory = path.join(fixtures, 'd100')
const prompts = [
  [1, 40, 41, 42],
  [1, 300],
  [1, ...Array.from({ length: 30 }, (_, i) => 100 + 7 * i)],
  [1, 40, 41, 42, 43],
]

describe.each(deviceTypes)('on $name, generation', ({ device }) => {
  let model: LlamaForCausalLM
  let tokenizer: LlamaTokenizer
  beforeAll(async () => {
    model = await LlamaForCausalLM.fromPretrained(directory, { device, dtype: 'float32' })
    tokenizer = await LlamaTokenizer.fromPretrained(directory)
  })
  afterAll(() => model.dispose())

  const sampled: GenerateOptions = { maxNewTokens: 24, doSample: true, topK: 40, topP: 0.95, seed: 7, eosTokenId: null }

  it.each<[string, GenerateOptions]>([
    ['greedily', { maxNewTokens: 24, eosTokenId: null }],
    ['with sampling', sampled],
  ])('a batch of prompts gives the answers of the single prompts, %s', async (_, options) => {
    const together = await model.generate(prompts, options)
    for (const [i, prompt] of prompts.entries()) expect(together[i]).toEqual(await model.generate(prompt, options))
  })

  it('a seed gives the same text, another seed another text, and equal prompts in a batch differ', async () => {
    const [first, second] = await model.generate([prompts[0], prompts[0]], sampled)
    expect(await model.generate(prompts[0], sampled)).toEqual(first)
    expect(second).not.toEqual(first)
    expect(await model.generate(prompts[0], { ...sampled, seed: 8 })).not.toEqual(first)
  })

  it('stream yields the same ids as generate', async () => {
    const streamed: number[] = []
    for await (const id of model.stream(prompts[1], sampled)) streamed.push(id)
    expect(streamed).toEqual(await model.generate(prompts[1], sampled))
    expect(streamed).toHaveLength(24)
  })

  it('generation with one candidate, or at temperature 0, is greedy', async () => {
    const base = { maxNewTokens: 16, eosTokenId: null }
    const greedy = await model.generate(prompts[0], base)
    expect(await model.generate(prompts[0], { ...sampled, maxNewTokens: 16, topK: 1 })).toEqual(greedy)
    expect(await model.generate(prompts[0], { ...base, temperature: 0 })).toEqual(greedy)
    expect(await model.generate(prompts[0], { ...base, doSample: true, temperature: 0, topP: 0.5 })).toEqual(greedy)
  })

  it('temperature, topK, or topP enables sampling, unless doSample is false', async () => {
    const base = { maxNewTokens: 16, eosTokenId: null, seed: 3 }
    const greedy = await model.generate(prompts[0], base)
    const drawn = await model.generate(prompts[0], { ...base, doSample: true, temperature: 5 })
    expect(drawn).not.toEqual(greedy)
    expect(await model.generate(prompts[0], { ...base, temperature: 5 })).toEqual(drawn)
    expect(await model.generate(prompts[0], { ...base, doSample: false, temperature: 5 })).toEqual(greedy)
    for (const option of [{ topK: 40 }, { topP: 0.9 }]) {
      const explicit = await model.generate(prompts[0], { ...base, ...option, doSample: true })
      expect(await model.generate(prompts[0], { ...base, ...option })).toEqual(explicit)
    }
  })

  it('generate accepts typed arrays of ids', async () => {
    const options = { maxNewTokens: 4, eosTokenId: null }
    const expected = await model.generate(prompts[0], options)
    const typed = Int32Array.from(prompts[0]) as unknown as number[]
    expect(await model.generate(typed, options)).toEqual(expected)
    expect(await model.generate([typed], options)).toEqual([expected])
  })

  it('generation stops before an end token, or continues past it on request', async () => {
    const all = await model.generate(prompts[0], { ...sampled, maxNewTokens: 12 })
    const end = all[5]
    const until = all.slice(0, all.indexOf(end))
    expect(await model.generate(prompts[0], { ...sampled, maxNewTokens: 12, eosTokenId: end })).toEqual(until)
    expect(await model.generate(prompts[0], { ...sampled, maxNewTokens: 12, eosTokenId: [511, end] })).toEqual(until)
  })

  it('each sequence stops at the token that completes a stop string', async () => {
    const options = { ...sampled, maxNewTokens: 20 }
    const all = await model.generate(prompts, options)
    const stop = tokenizer.decode(all[0].slice(0, 8)).slice(-3)
    const stopped = await model.generate(prompts, { ...options, stopStrings: stop, tokenizer })
    all.forEach((ids, i) => {
      const lengths = ids.map((_, n) => n + 1)
      const end = lengths.find((n) => tokenizer.decode(ids.slice(0, n)).includes(stop)) ?? ids.length
      expect(stopped[i]).toEqual(ids.slice(0, end))
    })
    expect(stopped[0].length).toBeLessThanOrEqual(8)
  })

  it('an aborted signal rejects with its reason, at the next token or before the first', async () => {
    const stop = new AbortController()
    const ids: number[] = []
    const reading = (async () => {
      for await (const id of model.stream(prompts[0], { ...sampled, maxNewTokens: 500, signal: stop.signal })) {
        ids.push(id)
        if (ids.length === 3) stop.abort()
      }
    })()
    await expect(reading).rejects.toMatchObject({ name: 'AbortError' })
    expect(ids).toHaveLength(3)
    const reason = new Error('the client has gone')
    await expect(model.generate(prompts[0], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  })

  it('a stream can be abandoned in the middle and started again', async () => {
    for (let round = 0; round < 3; round++) {
      for await (const id of model.stream(prompts[0], sampled)) {
        expect(id).toBeLessThan(512)
        break
      }
    }
    expect(await model.generate(prompts[0], sampled)).toHaveLength(24)
  })

  it('generation reaches the last position of the context', async () => {
    using short = LlamaForCausalLM.fromConfig(
      { ...model.config.json, max_position_embeddings: 20 },
      { device, dtype: 'float32' },
    )
    expect(await short.generate([1, 2, 3], { maxNewTokens: 17, eosTokenId: null })).toHaveLength(17)
    expect(await short.generate([1, 2, 3], { eosTokenId: null })).toHaveLength(17)
    await expect(short.generate([1, 2, 3], { maxNewTokens: 18 })).rejects.toThrow(
      /longer than the model's context of 20/,
    )
  })

  it.each<[GenerateOptions | Record<string, unknown>, RegExp]>([
    [{ maxNewTokens: 0 }, /maxNewTokens must be a positive integer, got 0/],
    [{ temperature: -1 }, /temperature must be 0 \(greedy\) or above, got -1/],
    [{ temperature: Number.NaN }, /temperature must be 0 \(greedy\) or above, got NaN/],
    [{ doSample: 'yes' }, /doSample must be true or false, got "yes"/],
    [{ eosTokenId: '2' }, /eosTokenId must be a token id, a list of them, or null, got "2"/],
    [{ stopStrings: '' }, /stopStrings must be strings that are not empty/],
    [{ max_tokens: 5 }, /unknown option max_tokens; did you mean maxNewTokens\?/],
    [{ maxTokens: 5 }, /unknown option maxTokens; did you mean maxNewTokens\?/],
    [{ max_new_tokens: 5 }, /unknown option max_new_tokens; did you mean maxNewTokens\?/],
    [{ temprature: 5 }, /unknown option temprature; did you mean temperature\?/],
    [{ topK: -1 }, /topK must be a non-negative integer/],
    [{ topP: 1.1 }, /topP must be above 0 and at most 1, got 1\.1/],
    [{ repetitionPenalty: Number.NaN }, /repetitionPenalty must be above 0/],
    [{ seed: 0.5 }, /seed must be a non-negative integer/],
    [{ stopStrings: [''] }, /stopStrings must be strings that are not empty/],
    [{ stopStrings: 'end' }, /stopStrings needs the option tokenizer/],
  ])('generation rejects %o', async (options, message) => {
    await expect(model.generate(prompts[0], options as GenerateOptions)).rejects.toThrow(message)
  })

  it.each<[unknown, string]>([
    [
      'text',
      'ids: expected a list of token ids, or of such lists, got "text": encode the text with tokenizer.encode first',
    ],
    [undefined, 'ids: expected a list of token ids, or of such lists, got undefined'],
    [{ ids: [1] }, 'ids: expected a list of token ids, or of such lists, got an object'],
    [[1, '2'], 'ids: expected a list of token ids, or of such lists, got [1,"2"]'],
    [[[1], 2], 'ids: expected a list of token ids, or of such lists, got 2'],
  ])('generate throws a TypeError for %j in place of ids', async (ids, message) => {
    await expect(model.generate(ids as number[])).rejects.toThrow(new TypeError(`generate: ${message}`))
    const stream = model.stream(ids as number[])
    await expect(stream.next()).rejects.toThrow(TypeError)
  })
})
