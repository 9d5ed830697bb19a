import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { samplingTensors } from '../../lib/generate/sampling-tensors.js'
import * as ops from '../../lib/ops.js'
import { devices } from '../support/devices.js'
import { type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { sampleCases } from '../support/op-fixtures.js'
import { forAll, widths } from '../support/properties.js'
import { softmax } from '../support/references.js'
import { resultOf, tensorOf } from '../support/tensors.js'

interface Settings {
  temperature: number
  topK: number
  topP: number
  repetitionPenalty: number
}
const plain: Settings = { temperature: 1, topK: 0, topP: 1, repetitionPenalty: 1 }
const greedy: Settings = { ...plain, temperature: 0 }

interface Batch {
  dtype?: FloatDType
  /** One row per sequence. */
  logits: ArrayLike<number>[]
  /** The tokens of each sequence so far; one token by default. */
  histories?: ArrayLike<number>[]
  sequenceSeeds?: number[]
  seed?: number
}

/** Divides positive logits of tokens in the history by the penalty, and multiplies negative ones. */
function penalise(logits: ArrayLike<number>, history: ArrayLike<number>, penalty: number): Float64Array {
  const seen = new Set(Array.from(history))
  return Float64Array.from(logits, (x, id) => (seen.has(id) ? (x < 0 ? x * penalty : x / penalty) : x))
}

/** The value that a χ² with this many degrees of freedom exceeds once in 10,000 samples (Wilson & Hilferty). */
function criticalChiSquare(freedom: number): number {
  const variance = 2 / (9 * freedom)
  return freedom * (1 - variance + 3.72 * Math.sqrt(variance)) ** 3
}

/** Pearson's χ² of counts against probabilities. Tokens with an expected count below five are merged. */
function expectFrequencies(counts: ArrayLike<number>, probabilities: ArrayLike<number>): void {
  const total = Array.from(counts).reduce((sum, count) => sum + count, 0)
  const rare = { count: 0, expected: 0 }
  const cells = [rare]
  Array.from(probabilities).forEach((p, id) => {
    if (p * total >= 5) cells.push({ count: counts[id], expected: p * total })
    else {
      rare.count += counts[id]
      rare.expected += p * total
    }
  })
  const filled = cells.filter(({ expected }) => expected > 0)
  const statistic = filled.reduce((sum, { count, expected }) => sum + (count - expected) ** 2 / expected, 0)
  expect(statistic).toBeLessThan(filled.length > 1 ? criticalChiSquare(filled.length - 1) : 1e-9)
}

describe.each(devices)('sample on $name', ({ device }) => {
  const stream = device.stream

  /** The state of a batch, as in a generation loop. */
  function prepare(
    { dtype = 'float32', logits, histories, sequenceSeeds, seed = 0 }: Batch,
    settings: Settings | Settings[],
    room = 2,
  ) {
    const size = logits.length
    const vocabulary = logits[0].length
    const past = histories ?? logits.map(() => [0])
    const length = Math.max(...past.map((tokens) => tokens.length)) + room
    const history = new Int32Array(size * length) // token 0 behind each end must not count
    const scores = new Float64Array(size * vocabulary)
    for (let i = 0; i < size; i++) {
      history.set(past[i], i * length)
      scores.set(logits[i], i * vocabulary)
    }
    const positions = past.map((tokens) => tokens.length - 1)
    return {
      ids: resultOf(device, 'int32', [size]),
      positions: tensorOf(device, 'int32', [size], positions),
      history: tensorOf(device, 'int32', [size, length], history),
      logits: tensorOf(device, dtype, [size, vocabulary], scores),
      sequenceSeeds: tensorOf(device, 'int32', [size], sequenceSeeds ?? logits.map((_, i) => i)),
      scratch: resultOf(device, 'float32', [size, 2 * vocabulary]),
      ...samplingTensors(
        device,
        logits.map((_, i) => ({ ...(Array.isArray(settings) ? settings[i] : settings), seed })),
      ),
    }
  }

  async function draw(batch: Batch, settings: Settings | Settings[]): Promise<number[]> {
    const args = prepare(batch, settings)
    ops.sample(stream, args)
    return Array.from(await args.ids.toArray())
  }

  describe.each(floatDTypes)('from logits in %s', (dtype) => {
    it.each(sampleCases)("sample draws with the probabilities of Transformers' processors: $name", async (example) => {
      const { logits, history, probabilities, ...settings } = example
      const counts = new Float64Array(logits.length)
      const rows = Array.from({ length: 2000 }, () => logits)
      const histories = rows.map(() => history)
      for (let seed = 0; seed < 5; seed++) {
        for (const id of await draw({ dtype, logits: rows, histories, seed }, settings)) counts[id]++
      }
      // The rarest token that is kept has a probability of 0.0009: 10,000 draws miss it with a probability of 1e-4.
      expect(Array.from(counts, (count) => count > 0)).toEqual(probabilities.map((p) => p > 0))
      expectFrequencies(counts, probabilities)
    })

    it('sample takes the first of the largest logits at temperature 0, after the penalty', async () => {
      const shapes = { vocabulary: widths, sequences: fc.integer({ min: 1, max: 5 }), penalty: fc.constantFrom(1, 1.5) }
      await forAll(shapes, async ({ vocabulary, sequences, penalty, random }) => {
        // Few different logits, so that most are tied; the penalty's results are exact.
        const logits = Array.from({ length: sequences }, () => {
          return Float64Array.from({ length: vocabulary }, () => 3 * (random.below(5) - 2))
        })
        const histories = logits.map(() => random.integers(1 + random.below(4), vocabulary))
        const settings = { ...greedy, repetitionPenalty: penalty, topK: random.below(3), topP: 0.5 }
        const expected = logits.map((row, i) => {
          const scores = penalise(row, histories[i], penalty)
          return scores.indexOf(Math.max(...scores))
        })
        expect(await draw({ dtype, logits, histories, seed: random.below(9) }, settings)).toEqual(expected)
      })
    })

    it('sample never draws a token that top-k or top-p excludes, for vocabularies of any size', async () => {
      const shapes = {
        vocabulary: fc.constantFrom(1, 2, 31, 100, 1003, 8001),
        topK: fc.constantFrom(0, 1, 2, 40, 5000),
        topP: fc.constantFrom(1, 0.95, 0.5, 0.1),
        temperature: fc.constantFrom(1, 0.3, 1.5),
        repetitionPenalty: fc.constantFrom(1, 1.3),
      }
      await forAll(shapes, async ({ vocabulary, random, ...settings }) => {
        const row = random.normals(dtype, vocabulary, 3)
        const history = random.integers(5, vocabulary)
        const scores = penalise(row, history, settings.repetitionPenalty).map((x) => x / settings.temperature)
        const kth = settings.topK > 0 ? (scores.slice().sort().at(-settings.topK) ?? -Infinity) : -Infinity
        const p = softmax(scores.map((x) => (x >= kth ? x : -Infinity)))
        // A token is in the set if the more likely tokens do not reach topP yet; float32 may be slightly off.
        const kept = (id: number) => {
          return p[id] > 0 && p.reduce((sum, other) => sum + (other > p[id] ? other : 0), 0) < settings.topP + 1e-5
        }
        const rows = Array.from({ length: 30 }, () => row)
        const ids = await draw({ dtype, logits: rows, histories: rows.map(() => history) }, settings)
        expect(ids.filter((id) => !kept(id))).toEqual([])
      })
    })
  })

  it('sample advances positions, returns the ids, and appends them to the histories', async () => {
    const random = new Random(12)
    const logits = Array.from({ length: 3 }, () => random.normals('float32', 20))
    const args = prepare({ logits, histories: [[4, 5, 6], [7], [8, 9]] }, plain, 5)
    const expected: number[][] = [[4, 5, 6], [7], [8, 9]]
    for (let step = 0; step < 3; step++) {
      ops.sample(stream, args)
      const ids = await args.ids.toArray()
      expected.forEach((tokens, i) => void tokens.push(ids[i]))
      expect(Array.from(await args.positions.toArray())).toEqual(expected.map((tokens) => tokens.length - 1))
    }
    const padded = expected.flatMap((tokens) => [...tokens, ...Array(8 - tokens.length).fill(0)])
    expect(Array.from(await args.history.toArray())).toEqual(padded)
  })

  it('sample leaves a finished sequence unchanged, whatever its logits', async () => {
    const nothing = Array(10).fill(Number.NaN)
    const args = prepare({ logits: [nothing, Array.from({ length: 10 }, (_, i) => i), nothing] }, greedy, 1)
    stream.write(args.ids, Int32Array.of(91, 92, 93))
    stream.write(args.positions, Int32Array.of(1, 0, -5)) // the last of two positions, the first, and none
    const history = Array.from(await args.history.toArray())
    history[3] = 9
    ops.sample(stream, args)
    expect(Array.from(await args.ids.toArray())).toEqual([91, 9, 93])
    expect(Array.from(await args.positions.toArray())).toEqual([1, 1, -5])
    expect(Array.from(await args.history.toArray())).toEqual(history)
  })

  it('sample rejects a history with a token outside the vocabulary if it has to penalize it', async () => {
    const batch = { logits: [[1, 2, 3]], histories: [[0, 3]] }
    expect(await draw(batch, greedy)).toEqual([2])
    await expect(draw(batch, { ...greedy, repetitionPenalty: 1.1 })).rejects.toMatchObject({
      code: 'INVALID_INDEX',
      message: 'sample: token 3 is outside [0, 3)',
    })
  })

  it('sample depends only on seed, sequence seed, and position, not on other sequences in the batch', async () => {
    const random = new Random(13)
    const logits = Array.from({ length: 40 }, () => random.normals('float32', 50))
    const histories = logits.map((_, i) => random.integers(1 + (i % 7), 50))
    const sequenceSeeds = logits.map((_, i) => 1000 - 3 * i)
    const settings = { ...plain, topK: 40, topP: 0.9 }
    const together = await draw({ logits, histories, sequenceSeeds, seed: 5 }, settings)
    expect(await draw({ logits, histories, sequenceSeeds, seed: 5 }, settings)).toEqual(together)
    for (const i of [0, 1, 17, 39]) {
      const alone = { logits: [logits[i]], histories: [histories[i]], sequenceSeeds: [sequenceSeeds[i]], seed: 5 }
      expect(await draw(alone, settings)).toEqual([together[i]])
    }
  })

  it('sample uses the settings of each sequence', async () => {
    const random = new Random(14)
    const logits = Array.from({ length: 24 }, () => random.normals('float32', 60))
    const histories = logits.map((_, i) => random.integers(1 + (i % 5), 60))
    const sequenceSeeds = logits.map((_, i) => i)
    const settings = logits.map((_, i) => ({
      temperature: [0, 0.5, 1, 2][i % 4],
      topK: [0, 3, 40][i % 3],
      topP: [1, 0.5, 0.9][(i >> 1) % 3],
      repetitionPenalty: [1, 1.3][(i >> 2) % 2],
    }))
    const together = await draw({ logits, histories, sequenceSeeds, seed: 7 }, settings)
    for (let i = 0; i < logits.length; i++) {
      const alone = { logits: [logits[i]], histories: [histories[i]], sequenceSeeds: [i], seed: 7 }
      expect(await draw(alone, settings[i])).toEqual([together[i]])
    }
  })

  it('sample draws different tokens for another seed, sequence seed, or position', async () => {
    const logits = Array.from({ length: 60 }, () => new Float64Array(1000)) // all equally likely
    const ones = logits.map(() => 1)
    const base = { logits, sequenceSeeds: ones, seed: 1 }
    const first = await draw({ ...base, sequenceSeeds: logits.map((_, i) => i) }, plain)
    expect(new Set(first).size).toBeGreaterThan(50) // sequence seeds differ
    const positions = logits.map((_, i) => Array(i + 1).fill(0))
    expect(new Set(await draw({ ...base, histories: positions }, plain)).size).toBeGreaterThan(50)
    const seeds = await Promise.all(
      [0, 1, 2, 2 ** 31, 2 ** 32, 2 ** 53 - 1].map((seed) => draw({ ...base, seed }, plain)),
    )
    expect(new Set(seeds.map((ids) => ids[0])).size).toBe(6)
    expect(new Set(await draw(base, plain)).size).toBe(1) // equal seeds give equal draws
  })

  it('sample draws independently at each position', async () => {
    const probabilities = [0.4, 0.3, 0.2, 0.1]
    const row = probabilities.map(Math.log)
    const args = prepare({ logits: Array.from({ length: 20 }, () => row) }, plain, 400)
    for (let step = 0; step < 400; step++) ops.sample(stream, args)
    const history = await args.history.toArray()
    const counts = new Float64Array(4)
    const pairs = new Float64Array(16)
    for (let i = 0; i < history.length; i++) {
      if (i % 401 === 0) continue // the initial token
      counts[history[i]]++
      if (i % 401 > 1 && i % 2 === 0) pairs[4 * history[i - 1] + history[i]]++
    }
    expectFrequencies(counts, probabilities)
    expectFrequencies(
      pairs,
      probabilities.flatMap((p) => probabilities.map((q) => p * q)),
    )
  })

  it.each([Number.NaN, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY])(
    'sample rejects logits that are all %d, and names the sequence',
    async (value) => {
      for (const settings of [plain, greedy, { ...plain, topK: 3 }, { ...plain, topP: 0.5 }]) {
        await expect(draw({ logits: [Array(37).fill(value)] }, settings)).rejects.toThrow(
          /^sample: the logits of sequence 0 are not finite/,
        )
      }
    },
  )
})
