import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type DeviceType, openDevice } from '../../lib/device.js'
import * as ops from '../../lib/ops.js'
import { withLocalRanks } from '../support/local-ranks.js'
import { slowWork } from '../support/slow-work.js'
import { tensorOf } from '../support/tensors.js'

// collectives/nccl.cpp unchanged, with a fake libnccl.so.2 between emulated GPUs (emulator/nccl.cpp).
const build = path.join(__dirname, '../../build')
const variables = ['OPENALPACA_CUDA_LIBRARIES', 'OPENALPACA_NCCL_TWIN', 'OPENALPACA_EMULATOR_GPU']
const before = Object.fromEntries(variables.map((name) => [name, process.env[name]]))
beforeEach(() => {
  process.env.OPENALPACA_CUDA_LIBRARIES = path.join(build, 'emulated')
})
afterEach(() => {
  for (const name of variables) {
    if (before[name] === undefined) delete process.env[name]
    else process.env[name] = before[name]
  }
})

const nccl = { backend: 'nccl' } as const
const emulated = openDevice('emulated' as DeviceType)
/** The error message of a failing wait. */
const failure = (wait: Promise<unknown>) => wait.then(() => undefined).catch(({ code, message }) => ({ code, message }))

describe('NCCL', () => {
  // This test runs first: a library that has been found is not searched again.
  it('an NCCL version without a required function is rejected, with the version to install', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'nccl-'))
    process.env.OPENALPACA_CUDA_LIBRARIES = folder
    symlinkSync(path.join(build, 'Release/libopenalpaca_emulated.so'), path.join(folder, 'libnccl.so.2'))
    const error = await failure(withLocalRanks(1, nccl, async () => {}))
    expect(emulated.libraries.NCCL).toBe('not found')
    rmSync(folder, { recursive: true })
    expect(error).toEqual({
      code: 'LIBRARY_NOT_FOUND',
      message: expect.stringMatching(/this version of NCCL has no ncclGet.*pip install --upgrade nvidia-nccl-cu13/),
    })
  })

  it('libraries of the device include the version of NCCL', () => {
    expect(emulated.libraries.NCCL).toBe('1.23.45') // the fake library's
  })

  it.each(['float32', 'bfloat16'] as const)('NCCL gathers, sums, and copies %s', async (dtype) => {
    // Small integers, whose sums are exact.
    const numbers = (n: number, seed: number) => Float32Array.from({ length: n }, (_, i) => ((seed + 7 * i) % 31) - 15)
    const [n, size] = [37, 3]
    const outcomes = await withLocalRanks(size, nccl, (ranks) =>
      Promise.all(
        ranks.map(async ({ rank, device, stream, communicator }) => {
          const tensor = (length: number, seed: number) => {
            const x = device.tensor('float32', [length])
            stream.write(x, numbers(length, seed))
            const cast = device.tensor(dtype, [length])
            ops.cast(stream, { dst: cast, src: x })
            return cast
          }
          const gathered = device.tensor(dtype, [n * size])
          communicator.allGather(stream, { out: gathered, input: tensor(n, rank) })
          const terms = tensor(n * size, 10 + rank)
          const scattered = terms.view([n], rank * n)
          communicator.reduceScatter(stream, { out: scattered, input: terms })
          const sum = tensor(n, 20 + rank)
          communicator.allReduce(stream, sum)
          const copy = tensor(n, 30 + rank)
          communicator.broadcast(stream, copy, 2)
          communicator.barrier(stream)
          const read = async (x: typeof sum) => {
            const values = device.tensor('float32', [x.length])
            ops.cast(stream, { dst: values, src: x })
            return Array.from(await values.toArray(stream))
          }
          return Promise.all([gathered, scattered, sum, copy].map(read))
        }),
      ),
    )
    const sumOf = (length: number, base: number) =>
      Array.from({ length }, (_, i) => [0, 1, 2].reduce((sum, rank) => sum + numbers(length, base + rank)[i], 0))
    for (const [rank, outcome] of outcomes.entries()) {
      expect(outcome).toEqual([
        [0, 1, 2].flatMap((other) => Array.from(numbers(n, other))),
        sumOf(n * size, 10).slice(rank * n, (rank + 1) * n),
        sumOf(n, 20),
        Array.from(numbers(n, 32)),
      ])
    }
  })

  it('NCCL waits for a late rank without blocking the event loop', async () => {
    await withLocalRanks(2, nccl, async ([first, second]) => {
      const xs = [first, second].map(({ device }) => tensorOf(device, 'float32', [3], 1))
      first.communicator.allReduce(first.stream, xs[0])
      let ended = false
      const end = first.stream.synchronize().then(() => (ended = true))
      await new Promise((resolve) => setTimeout(resolve, 20))
      expect(ended).toBe(false)
      second.communicator.allReduce(second.stream, xs[1])
      await end
    })
  })

  it('NCCL names the collective that not all ranks reach in time, and releases the stream', async () => {
    await withLocalRanks(2, { ...nccl, timeout: 0.2 }, async ([{ device, stream, communicator }]) => {
      const x = tensorOf(device, 'float32', [3], 0)
      communicator.reduceScatter(stream, { out: x.view([1], 0), input: x.view([2], 0) })
      const told = {
        code: 'COLLECTIVE_TIMEOUT',
        message: expect.stringMatching(/^reduce_scatter: not all of the 2 ranks arrived within 0\.2 s/),
      }
      // The result is not valid, and stays unchanged.
      const values = new Float32Array(3).fill(7)
      expect(await failure(stream.read(x, values))).toEqual(told)
      expect(values).toEqual(new Float32Array(3).fill(7))
      communicator.barrier(stream)
      expect(await failure(stream.synchronize())).toEqual(told)
    })
  })

  it('the NCCL timeout excludes time that a collective waits for work of its own GPU', async () => {
    await withLocalRanks(2, { ...nccl, timeout: 0.5 }, async (ranks) => {
      const { device } = ranks[0]
      const busy = await slowWork(device, 900)
      const computed = device.createEvent()
      busy(device.stream)
      device.stream.record(computed)
      for (const { stream, communicator } of ranks) {
        stream.wait(computed)
        communicator.barrier(stream)
      }
      for (const { stream } of ranks) await stream.synchronize()
    })
  })

  it('NCCL reports a broken connection as a lost rank', async () => {
    await withLocalRanks(2, nccl, async ([{ stream, communicator }]) => {
      process.env.OPENALPACA_NCCL_TWIN = 'remote error'
      communicator.barrier(stream)
      expect(await failure(stream.synchronize())).toEqual({
        code: 'RANK_LOST',
        message: 'barrier: remote process exited or there was a network error (from the fake NCCL)',
      })
    })
  })

  it('NCCL reports why a call was rejected', async () => {
    await withLocalRanks(2, nccl, async ([{ stream, communicator }]) => {
      process.env.OPENALPACA_NCCL_TWIN = 'refused'
      communicator.barrier(stream)
      expect(await failure(stream.synchronize())).toEqual({
        code: 'NCCL_ERROR',
        message: 'barrier: invalid argument (from the fake NCCL)',
      })
    })
  })
})

describe('the collectives backend', () => {
  const chosen = (gpuOf: (rank: number) => number, backend: 'auto' | 'nccl' | 'gloo') =>
    withLocalRanks(3, { backend, gpuOf }, async (ranks) => ranks.map(({ communicator }) => communicator.backend))

  it('the backend is NCCL if each rank has its own GPU, otherwise Gloo', async () => {
    expect(await chosen((rank) => rank, 'auto')).toEqual(['nccl', 'nccl', 'nccl'])
    expect(await chosen((rank) => Math.min(rank, 1), 'auto')).toEqual(['gloo', 'gloo', 'gloo'])
    expect(await chosen((rank) => rank, 'gloo')).toEqual(['gloo', 'gloo', 'gloo'])
  })

  it('the backend cannot be NCCL if two ranks share one GPU', async () => {
    const error = await failure(chosen((rank) => Math.min(rank, 1), 'nccl'))
    expect(error).toEqual({
      code: 'GPU_SHARED',
      message: expect.stringMatching(/^ranks 1 and 2 of 3 share one GPU \(emulated GPU\), .*--backend gloo/),
    })
  })
})

describe('Gloo between GPUs', () => {
  // CUDA may run the host functions of all streams on one thread, as the emulator does; reads end in one.
  it('Gloo between GPUs blocks no other stream while a collective waits for a rank', async () => {
    await withLocalRanks(2, { backend: 'gloo' }, async (ranks) => {
      const [first, second] = ranks
      const xs = ranks.map(({ device, rank }) => tensorOf(device, 'float32', [3], 1 + rank))
      await Promise.all(ranks.map(({ device }) => device.stream.synchronize()))
      first.communicator.allReduce(first.stream, xs[0])
      const end = xs[0].toArray(first.stream)
      const other = tensorOf(first.device, 'float32', [2], 5)
      expect(await other.toArray()).toEqual(Float32Array.of(5, 5))
      second.communicator.allReduce(second.stream, xs[1])
      expect(await end).toEqual(Float32Array.of(3, 3, 3))
    })
  })
})

describe.each(['nccl', 'gloo'] as const)('a collective over %s', (backend) => {
  it('a collective ends when another rank fails, and nothing is read after it', async () => {
    await withLocalRanks(2, { backend }, async ([{ device, stream, communicator }, second]) => {
      const x = device.tensor('float32', [3])
      communicator.allReduce(stream, x)
      const values = new Float32Array(3).fill(7)
      const end = failure(stream.read(x, values))
      second.rendezvous.fail('its disk is full')
      const told = { code: 'RANK_LOST', message: 'rank 1 of 2 failed: its disk is full' }
      expect(await end).toEqual(told)
      expect(values).toEqual(new Float32Array(3).fill(7))
      communicator.barrier(stream)
      expect(await failure(stream.synchronize())).toEqual(told)
    })
  })
})
