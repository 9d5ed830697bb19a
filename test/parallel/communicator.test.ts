import { createHash } from 'node:crypto'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { openDevice } from '../../lib/device.js'
import { native } from '../../lib/native.js'
import * as ops from '../../lib/ops.js'
import { freePort } from '../../lib/parallel/launcher.js'
import type { Tensor } from '../../lib/tensor.js'
import { type RankEnd, runRanks, startRank } from '../support/ranks.js'

const device = openDevice('cpu')
const { stream } = device

type DType = 'float32' | 'bfloat16'
const names = ['all', 'placed', 'sum', 'inPlace', 'total', 'shared'] as const
type Line = { dtype: DType; n: number; repeat: number } & Record<(typeof names)[number], { hash: string }>

/** A rank's values as test/support/collectives.mjs generates them, in its dtype and read as float32. */
async function drawn(dtype: DType, n: number, seed: number): Promise<Float32Array> {
  const x = device.tensor(dtype, [n])
  const values = device.tensor('float32', [n])
  ops.randomNormal(stream, { x, std: 1, seed, streamId: n })
  ops.cast(stream, { dst: values, src: x })
  return (await values.toArray()) as Float32Array
}

async function hashOf(dtype: DType, values: Float32Array): Promise<string> {
  const source = device.tensor('float32', [values.length])
  stream.write(source, values)
  let x: Tensor = source
  if (dtype === 'bfloat16') {
    x = device.tensor(dtype, [values.length])
    ops.cast(stream, { dst: x, src: source })
  }
  return createHash('sha256')
    .update(await x.toArray())
    .digest('hex')
}

/** The sum in the order of the ranks, in float32. */
function sumOf(terms: Float32Array[]): Float32Array {
  const sum = terms[0].slice()
  for (const term of terms.slice(1)) for (let i = 0; i < sum.length; i++) sum[i] += term[i]
  return sum
}

/** By rank. */
async function expected(dtype: DType, n: number, size: number): Promise<Record<string, string>[]> {
  const draw = (length: number, base: number) =>
    Promise.all(Array.from({ length: size }, (_, r) => drawn(dtype, length, base + r)))
  const gathered = new Float32Array(n * size)
  for (const [r, values] of (await draw(n, 0)).entries()) gathered.set(values, r * n)
  const [all, total] = [await hashOf(dtype, gathered), await hashOf(dtype, sumOf(await draw(n, 200)))]
  // collectives.mjs generates n·size numbers with the seed n·size.
  const sums = sumOf(await draw(n * size, 100))
  const shared = await hashOf(dtype, await drawn(dtype, n, 300 + size - 1))
  return await Promise.all(
    Array.from({ length: size }, async (_, rank) => {
      const sum = await hashOf(dtype, sums.subarray(rank * n, (rank + 1) * n))
      return { all, placed: all, sum, inPlace: sum, total, shared }
    }),
  )
}

// One element; fewer than the number of ranks; odd numbers; several pieces of 1 MiB, the last one short.
const lengths = [1, 3, 7, 1000, 4099, 600_001]

describe('collectives over Gloo', () => {
  it.each([...[1, 2, 3, 4, 8].map((size) => ({ size, device: 'cpu' })), { size: 3, device: 'emulated' }])(
    'Gloo collectives between $size processes on $device compute the exact sums and copies of their contract',
    async ({ size, device }) => {
      const some = size > 4 || device === 'emulated' ? lengths.slice(0, 5) : lengths
      const ends = await runRanks('collectives.mjs', size, { lengths: some, device })
      for (const { code, errors } of ends) expect({ code, errors }).toEqual({ code: 0, errors: '' })
      for (const { lines } of ends) expect(lines).toHaveLength(2 * some.length)
      for (const [i, { dtype, n }] of (ends[0].lines as Line[]).entries()) {
        const byRank = await expected(dtype, n, size)
        for (const [rank, { lines }] of ends.entries()) {
          const line = lines[i] as Line
          const got = Object.fromEntries(names.map((name) => [name, line[name].hash]))
          expect(got, `${n} of ${dtype} on rank ${rank}`).toEqual(byRank[rank])
        }
      }
    },
  )

  it('Gloo collectives give the same bits on every repetition', async () => {
    const ends = await runRanks('collectives.mjs', 3, { lengths: [33_333], repeats: 5 })
    for (const { lines } of ends) {
      const hashes = (lines as Line[]).map(({ repeat, ...line }) => JSON.stringify(line))
      expect(hashes).toHaveLength(10)
      expect(new Set(hashes).size).toBe(2) // one per dtype
    }
  })
})

const last = ({ lines }: RankEnd) => lines[lines.length - 1]

describe('losing a rank', () => {
  it.each([0, 1, 2])('kill -9 of rank %i makes the others end with RANK_LOST and its number', async (culprit) => {
    const ends = await runRanks('failing-collectives.mjs', 3, { fault: 'kill', culprit })
    for (const [rank, end] of ends.entries()) {
      if (rank === culprit) expect(end.signal).toBe('SIGKILL')
      else {
        expect(last(end)).toEqual({
          code: 'RANK_LOST',
          message: expect.stringMatching(new RegExp(`rank ${culprit} of 3 is gone`)),
        })
      }
    }
  })

  it('an error of one rank is reported by the others', async () => {
    const ends = await runRanks('failing-collectives.mjs', 3, { fault: 'fail' })
    for (const rank of [0, 2]) {
      expect(last(ends[rank])).toEqual({ code: 'RANK_LOST', message: 'rank 1 of 3 failed: its disk is full' })
    }
  })

  it.each([0, 1])('when rank %i hangs, the others name only it, and no rank that waits for it too', async (culprit) => {
    const port = await freePort()
    const options = { size: 4, port, fault: 'hang', culprit, timeout: 3 }
    const ranks = [0, 1, 2, 3].map((rank) => startRank('failing-collectives.mjs', { rank, ...options }))
    const ends = await Promise.all(ranks.filter((_, rank) => rank !== culprit).map(({ end }) => end))
    ranks[culprit].child.kill('SIGKILL')
    const [told, ...others] = ends.map(last)
    expect(told).toEqual({
      code: 'COLLECTIVE_TIMEOUT',
      message: expect.stringMatching(
        new RegExp(`^(broadcast|all_gather): rank ${culprit} of 4 did not arrive within 3\\.0 s`),
      ),
    })
    expect(others).toEqual([told, told])
  })
})

it('a communicator that waits for a rank to connect stops on request', async () => {
  const create = (rank: number) => native.communicatorCreate(device.handle, 'gloo', rank, 2, '127.0.0.1', 600_000)
  for (let isCaller = true; isCaller; ) {
    const handles = [create(0), create(1)]
    const waiting = native.communicatorConnect(handles[0], handles.map(native.communicatorAddress))
    // One of two ranks connects to the other, depending on their ports, and needs no answer.
    isCaller = await Promise.race([waiting.then(() => true), sleep(100, false)])
    native.communicatorAbort(handles[0], 'ABORTED', 'stopped')
    if (!isCaller) await expect(waiting).rejects.toMatchObject({ code: 'ABORTED', message: 'stopped' })
  }
})

describe('a rendezvous', () => {
  it('the rendezvous reports the value on which the ranks disagree', async () => {
    const ends = await runRanks('failing-collectives.mjs', 3, { fault: 'recipe' })
    for (const end of ends) {
      expect(last(end)).toEqual({
        code: 'RANKS_DISAGREE',
        message: expect.stringMatching(/disagree on learning_rate: rank 0 has 0\.0001, and rank 1 has 0\.0002/),
      })
    }
  })

  it('the rendezvous rejects a rank that was started for another number of ranks', async () => {
    const ends = await runRanks('failing-collectives.mjs', 2, { fault: 'size', timeout: 3 })
    expect(last(ends[1])).toMatchObject({
      code: 'RANKS_DISAGREE',
      message: expect.stringMatching(/with 2 ranks, and rank 1 with 3/),
    })
    expect(last(ends[0])).toMatchObject({
      code: 'NO_ANSWER',
      message: expect.stringMatching(/rank 1 of 2 did not reach/),
    })
  })

  it('the rendezvous names a port in use', async () => {
    const server = net.createServer().listen(0)
    await new Promise((resolve) => server.once('listening', resolve))
    const { port } = server.address() as net.AddressInfo
    const end = await startRank('failing-collectives.mjs', { rank: 0, size: 1, port }).end
    server.close()
    expect(last(end)).toEqual({
      code: 'PORT_IN_USE',
      message: expect.stringContaining(`port ${port} of this machine is in use`),
    })
  })

  it('the rendezvous names the address that does not answer', async () => {
    const port = await freePort()
    const end = await startRank('failing-collectives.mjs', { rank: 1, size: 2, port, timeout: 1 }).end
    expect(last(end)).toEqual({
      code: 'NO_ANSWER',
      message: expect.stringMatching(
        new RegExp(`rank 1 of 2 got no answer from rank 0 at 127\\.0\\.0\\.1:${port} within 1 s`),
      ),
    })
  })
})
