import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { deviceTypes } from '../support/devices.js'
import { slowWork } from '../support/slow-work.js'
import { tensorOf, valuesOf } from '../support/tensors.js'

describe.each(deviceTypes)('a stream on $name', ({ device }) => {
  /** An op that fails: its id is outside the table. */
  function fail(stream = device.stream) {
    const [out, w] = [device.tensor('float32', [1, 2]), device.tensor('float32', [3, 2])]
    const ids = device.tensor('int32', [1])
    stream.write(ids, Int32Array.of(3))
    ops.embeddingForward(stream, { out, ids, w })
  }
  const failure = { code: 'INVALID_INDEX', message: 'embedding_forward: id 3 is outside [0, 3)' }

  it('a stream runs its work in order', async () => {
    const stream = device.createStream()
    const x = device.tensor('float32', [1000])
    for (let value = 1; value <= 200; value++) ops.fill(stream, { x, value })
    expect(await x.toArray(stream)).toEqual(new Float32Array(1000).fill(200))
  })

  it('synchronize resolves only after all work enqueued before it', async () => {
    const stream = device.createStream()
    const enqueue = await slowWork(device, 50)
    const x = tensorOf(device, 'float32', [1], 0)
    await device.stream.synchronize()
    enqueue(stream)
    ops.fill(stream, { x, value: 1 })
    await stream.synchronize()
    expect(await x.toArray(device.createStream())).toEqual(Float32Array.of(1))
  })

  it('several waits settle in order', async () => {
    const stream = device.createStream()
    const x = device.tensor('float32', [1])
    const order: number[] = []
    const waits = [0, 1, 2, 3].map(async (i) => {
      ops.fill(stream, { x, value: i })
      expect((await x.toArray(stream))[0]).toBe(i)
      order.push(i)
    })
    await Promise.all(waits)
    expect(order).toEqual([0, 1, 2, 3])
  })

  it('write copies the data at the call: a later change of the array has no effect', async () => {
    const enqueue = await slowWork(device, 30)
    const x = device.tensor('float32', [4])
    const data = Float32Array.of(1, 2, 3, 4)
    enqueue(device.stream)
    device.stream.write(x, data)
    data.fill(9)
    expect(await valuesOf(x)).toEqual(Float64Array.of(1, 2, 3, 4))
  })

  it('upload does not copy: it uses the contents of the array at the time of the transfer', async () => {
    const enqueue = await slowWork(device, 30)
    const x = device.tensor('float32', [4])
    const data = Float32Array.of(1, 2, 3, 4)
    enqueue(device.stream)
    const upload = device.stream.upload(x, data)
    data.fill(9)
    await upload
    expect(await valuesOf(x)).toEqual(Float64Array.of(9, 9, 9, 9))
  })

  it('write, upload, and read work on a part of a larger buffer', async () => {
    const x = device.tensor('int32', [3])
    const buffer = Int32Array.of(0, 1, 2, 3, 4)
    device.stream.write(x, buffer.subarray(1, 4))
    expect(await valuesOf(x)).toEqual(Float64Array.of(1, 2, 3))
    await device.stream.upload(x, buffer.subarray(2, 5))
    const target = new Int32Array(5)
    await device.stream.read(x, target.subarray(1, 4))
    expect(target).toEqual(Int32Array.of(0, 2, 3, 4, 0))
  })

  it('a stream rejects data of another size, and values that are not typed arrays', () => {
    const x = device.tensor('float32', [4])
    const { stream } = device
    const message = (op: string) => `${op}: data must have the tensor's 16 bytes, got 12`
    expect(() => stream.write(x, new Float32Array(3))).toThrow(new RangeError(message('write')))
    expect(() => stream.upload(x, new Float32Array(3))).toThrow(new RangeError(message('upload')))
    expect(() => stream.read(x, new Uint8Array(12))).toThrow(new RangeError(message('read')))
    const array = [1, 2, 3, 4] as unknown as Float32Array
    expect(() => stream.write(x, array)).toThrow(new TypeError('write: data must be a typed array'))
  })

  it('a failed stream leaves parameters unchanged until it is waited for, and then works again', async () => {
    const stream = device.createStream()
    const [master, m, v, grad] = [1, 2, 3, 4].map((value) => tensorOf(device, 'float32', [2], value))
    await device.stream.synchronize()
    const step = () => {
      const betas = { beta1: 0.9, beta2: 0.95 }
      ops.adamw(stream, { master, m, v, grad, lr: 1, ...betas, eps: 0, weightDecay: 0, gradScale: 1, step: 1 })
    }
    fail(stream)
    step()
    await expect(stream.synchronize()).rejects.toMatchObject(failure)
    for (const [tensor, value] of [
      [master, 1],
      [m, 2],
      [v, 3],
    ] as const) {
      // biome-ignore format: a table
      expect(await valuesOf(tensor)).toEqual(Float64Array.of(value, value))
    }
    step()
    await stream.synchronize()
    expect((await valuesOf(master))[0]).toBeLessThan(1)
  })

  it.runIf(device.type === 'cpu')('a failed stream skips later work until it is waited for', async () => {
    const stream = device.createStream()
    const x = device.tensor('float32', [2])
    ops.fill(stream, { x, value: 1 })
    fail(stream)
    ops.fill(stream, { x, value: 2 })
    await expect(stream.synchronize()).rejects.toMatchObject(failure)
    expect(await x.toArray(stream)).toEqual(Float32Array.of(1, 1))
    ops.fill(stream, { x, value: 3 })
    expect(await x.toArray(stream)).toEqual(Float32Array.of(3, 3))
  })

  it('a stream reports the first failure once, to the next wait', async () => {
    const stream = device.createStream()
    fail(stream)
    const labels = device.tensor('int32', [1])
    stream.write(labels, Int32Array.of(5))
    const [logits, losses] = [device.tensor('float32', [1, 2]), device.tensor('float32', [1])]
    const correct = device.tensor('int32', [1])
    ops.crossEntropy(stream, { logits, losses, correct, labels, weights: losses, writeGradient: false })
    const waits = await Promise.allSettled([stream.synchronize(), stream.synchronize(), stream.synchronize()])
    expect(waits.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled'])
    expect(waits[0]).toMatchObject({ reason: failure })
  })

  it('reads and uploads reject after a failure too, and the destination of a read stays unchanged', async () => {
    const stream = device.createStream()
    const x = tensorOf(device, 'float32', [2], 7)
    await device.stream.synchronize()
    const target = new Float32Array(2)
    fail(stream)
    await expect(stream.read(x, target)).rejects.toMatchObject(failure)
    expect(target).toEqual(Float32Array.of(0, 0))
    fail(stream)
    await expect(stream.upload(x, Float32Array.of(8, 8))).rejects.toMatchObject(failure)
    if (device.type === 'cpu') expect(await x.toArray(stream)).toEqual(Float32Array.of(7, 7))
  })

  it('a stream is not affected by the failure of another', async () => {
    const [failing, working] = [device.createStream(), device.createStream()]
    const x = device.tensor('float32', [1])
    fail(failing)
    ops.fill(working, { x, value: 4 })
    expect(await x.toArray(working)).toEqual(Float32Array.of(4))
    await expect(failing.synchronize()).rejects.toMatchObject(failure)
  })
})
