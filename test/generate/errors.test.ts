import path from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { OpenAlpacaError } from '../../lib/errors.js'
import type { GenerateOptions } from '../../lib/generate/options.js'
import { deviceTypes } from '../support/devices.js'
import { fixtures } from '../support/fixtures.js'

const good = [1, 40, 41, 42]
/** The token whose embedding row is not finite. */
const poisoned = 7
const bad = [1, 5, poisoned]

describe.each(deviceTypes)('on $name, a generation that fails', ({ device }) => {
  let model: LlamaForCausalLM
  const unhandled: unknown[] = []
  const note = (reason: unknown) => void unhandled.push(reason)
  beforeAll(async () => {
    model = await LlamaForCausalLM.fromPretrained(path.join(fixtures, 'd100'), { device, dtype: 'float32' })
    const row = model.parameters.layers.embedding.w.rows(poisoned, poisoned + 1)
    device.stream.write(row, new Float32Array(row.length).fill(Number.NaN))
  })
  afterAll(() => model.dispose())
  beforeEach(() => {
    unhandled.length = 0
    process.on('unhandledRejection', note)
  })
  afterEach(async () => {
    vi.restoreAllMocks()
    await new Promise((resolve) => setTimeout(resolve, 20))
    process.off('unhandledRejection', note)
    expect(unhandled).toEqual([])
    await device.stream.synchronize() // no work of it remains on the stream
    expect(await model.generate(good, { maxNewTokens: 3, eosTokenId: null })).toHaveLength(3)
  })

  it.each<[string, () => Promise<unknown>]>([
    ['generate', () => model.generate(bad, { maxNewTokens: 8 })],
    ['generate with one new token', () => model.generate(bad, { maxNewTokens: 1 })],
    ['generate with two new tokens', () => model.generate(bad, { maxNewTokens: 2 })],
    ['a batch with one such prompt', () => model.generate([good, bad], { maxNewTokens: 8 })],
    ['stream', () => model.stream(bad, { maxNewTokens: 8 }).next()],
  ])('a failing generation rejects once: %s', async (_, generate) => {
    await expect(generate()).rejects.toMatchObject({ code: 'NON_FINITE' })
  })

  it('a failing generation does not affect others that run at the same time', async () => {
    const options = { maxNewTokens: 6, eosTokenId: null }
    const expected = await model.generate(good, options)
    const [first, failed, second] = await Promise.allSettled(
      [good, bad, good].map((ids) => model.generate(ids, options)),
    )
    expect(failed).toMatchObject({ status: 'rejected', reason: { code: 'NON_FINITE' } })
    expect([first, second]).toEqual(Array(2).fill({ status: 'fulfilled', value: expected }))
  })

  /** The reads of a generation fail from the n-th on, as when the device is lost. */
  function failReads(from: number): void {
    const read = device.stream.read.bind(device.stream)
    let reads = 0
    vi.spyOn(device.stream, 'read').mockImplementation(async (tensor, data) => {
      if (++reads < from) return await read(tensor, data)
      throw new OpenAlpacaError('DEVICE_LOST', `read ${reads} failed`)
    })
  }

  const endings: [string, (stream: AsyncGenerator<number>) => Promise<void>][] = [
    [
      'break',
      async (stream) => {
        for await (const _ of stream) break
      },
    ],
    [
      'throw',
      async (stream) => {
        const error = new Error('of the consumer')
        const reading = (async () => {
          for await (const _ of stream) throw error
        })()
        await expect(reading).rejects.toBe(error)
      },
    ],
    [
      'return()',
      async (stream) => {
        await stream.next()
        expect(await stream.return(undefined)).toMatchObject({ done: true })
        expect(await stream.next()).toMatchObject({ done: true })
      },
    ],
    ['nothing more', async (stream) => void (await stream.next())],
  ]
  it.each(endings)(
    'an error after a token at which the consumer does %s causes no unhandled rejection',
    async (_, end) => {
      failReads(2)
      const options: GenerateOptions = { maxNewTokens: 20, eosTokenId: null }
      await end(model.stream(good, options))
    },
  )

  it('a device error at any later token rejects with the first error', async () => {
    failReads(3)
    const ids: number[] = []
    const reading = (async () => {
      for await (const id of model.stream(good, { maxNewTokens: 20, eosTokenId: null })) ids.push(id)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'DEVICE_LOST', message: 'read 3 failed' })
    expect(ids).toHaveLength(2)
  })

  it('a generation whose launch throws waits for earlier reads', async () => {
    vi.spyOn(device.stream, 'launch').mockImplementation(() => {
      throw new OpenAlpacaError('CUDA_ERROR', 'launch failed')
    })
    await expect(model.generate(bad, { maxNewTokens: 4 })).rejects.toMatchObject({ code: 'CUDA_ERROR' })
  })

  it('an out-of-memory generation frees its allocations', async () => {
    const taken: { disposed: boolean }[] = []
    const allocate = device.tensor.bind(device)
    vi.spyOn(device, 'tensor').mockImplementation((dtype, shape) => {
      if (taken.length === 12) throw new OpenAlpacaError('OUT_OF_MEMORY', 'no memory left')
      const tensor = allocate(dtype, shape)
      const entry = { disposed: false }
      taken.push(entry)
      const dispose = tensor.dispose.bind(tensor)
      vi.spyOn(tensor, 'dispose').mockImplementation(() => {
        entry.disposed = true
        dispose()
      })
      return tensor
    })
    await expect(model.generate(good, { maxNewTokens: 4 })).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' })
    expect(taken).toEqual(Array(12).fill({ disposed: true }))
  })
})

describe.each(deviceTypes)('on $name, a tokenizer without tokens for some ids', ({ device }) => {
  it.each([
    ['greedily', {}],
    ['with sampling', { doSample: true, temperature: 3, topK: 0, seed: 5 }],
    [
      'with sampling, with top-k, top-p, and a penalty',
      { temperature: 3, topK: 300, topP: 0.99, repetitionPenalty: 1.2 },
    ],
  ])('ids without tokens never appear in the answer, %s', async (_, how) => {
    using model = LlamaForCausalLM.fromConfig(
      {
        vocab_size: 320,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        max_position_embeddings: 64,
        eos_token_id: 2,
      },
      { device, dtype: 'float32', seed: 4 },
    )
    const hasToken = (id: number) => id < 12 || (id > 20 && id < 31)
    const tokenizer = { createDecodeStream: () => ({ push: () => '' }), hasToken }
    const options = { ...how, maxNewTokens: 30, eosTokenId: 300 }
    const prompts = [
      [1, 5, 6],
      [1, 250, 15, 9],
    ]
    expect((await model.generate(prompts, options)).flat().every(hasToken)).toBe(false)
    const answers = await model.generate(prompts, { ...options, tokenizer })
    expect(answers.flat().filter((id) => !hasToken(id))).toEqual([])
    expect(answers.flat().length).toBeGreaterThan(0)
  })
})
