import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { deviceTypes } from '../support/devices.js'

describe.each(deviceTypes)('a graph on $name', ({ device }) => {
  const scalar = (value: number) => {
    const x = device.tensor('float32', [1, 1])
    device.stream.write(x, Float32Array.of(value))
    return x
  }

  it('a graph records ops without running them, and each launch runs them on the current tensors', async () => {
    const { stream } = device
    const [x, sum] = [scalar(2), scalar(1)]
    const graph = stream.capture(() => ops.matmul(stream, { c: sum, a: x, b: x, beta: 1 }))
    expect(await sum.toArray()).toEqual(Float32Array.of(1))
    stream.launch(graph)
    stream.launch(graph)
    expect(await sum.toArray()).toEqual(Float32Array.of(9))
    stream.write(x, Float32Array.of(10))
    stream.launch(graph)
    expect(await sum.toArray()).toEqual(Float32Array.of(109))
  })

  it('a graph runs in stream order, among other work, many times', async () => {
    const { stream } = device
    const [one, sum] = [scalar(1), scalar(0)]
    const graph = stream.capture(() => {
      ops.matmul(stream, { c: sum, a: one, b: one, beta: 1 })
      ops.matmul(stream, { c: sum, a: one, b: one, beta: 1 })
    })
    for (let i = 0; i < 500; i++) stream.launch(graph)
    ops.matmul(stream, { c: sum, a: one, b: one, alpha: 0, beta: 2 })
    stream.launch(graph)
    expect(await sum.toArray()).toEqual(Float32Array.of(2002))
  })

  it('a graph keeps the data written during recording', async () => {
    const { stream } = device
    const x = scalar(0)
    const data = Float32Array.of(5)
    const graph = stream.capture(() => stream.write(x, data))
    data[0] = 6
    for (let i = 0; i < 2; i++) {
      stream.write(x, Float32Array.of(0))
      stream.launch(graph)
      expect(await x.toArray()).toEqual(Float32Array.of(5))
    }
  })

  it('a graph keeps its operands alive when their owners dispose of them', async () => {
    const { stream } = device
    const [x, sum] = [scalar(3), scalar(0)]
    const graph = stream.capture(() => ops.matmul(stream, { c: sum, a: x, b: x, beta: 1 }))
    await stream.synchronize()
    x.dispose()
    for (let i = 0; i < 20; i++) ops.fill(stream, { x: device.tensor('float32', [1, 1]), value: 1 })
    stream.launch(graph)
    expect(await sum.toArray()).toEqual(Float32Array.of(9))
  })

  it('a graph may run on another stream than the one it was recorded on', async () => {
    const [recording, running] = [device.createStream(), device.createStream()]
    const x = scalar(0)
    await device.stream.synchronize()
    const graph = recording.capture(() => ops.fill(recording, { x, value: 8 }))
    running.launch(graph)
    expect(await x.toArray(running)).toEqual(Float32Array.of(8))
  })

  it('a graph cannot contain waits, launches, or recordings', async () => {
    const stream = device.createStream()
    const event = device.createEvent()
    const empty = stream.capture(() => {})
    const x = scalar(1)
    await device.stream.synchronize()
    const target = new Float32Array(1)
    const graph = stream.capture(() => {
      const refused: [() => unknown, string][] = [
        [() => stream.synchronize(), 'synchronize'],
        [() => stream.read(x, target), 'synchronize'],
        [() => stream.upload(x, target), 'synchronize'],
        [() => stream.record(event), 'record an event'],
        [() => stream.wait(event), 'wait for an event'],
        [() => stream.launch(empty), 'launch a graph'],
        [() => stream.capture(() => {}), 'begin another capture'],
      ]
      for (const [call, what] of refused) {
        const message = `cannot ${what} while a graph is being recorded`
        expect(call).toThrow(expect.objectContaining({ code: 'CAPTURING', message }))
      }
    })
    // The rejected calls are not in the graph either.
    stream.launch(graph)
    await stream.synchronize()
    expect(target).toEqual(Float32Array.of(0))
    expect(await x.toArray(stream)).toEqual(Float32Array.of(1))
  })

  it('no graph is created when recording throws, and the stream stays usable', async () => {
    const { stream } = device
    const x = scalar(1)
    const record = () => {
      ops.fill(stream, { x, value: 2 })
      throw new Error('changed my mind')
    }
    expect(() => stream.capture(record)).toThrow('changed my mind')
    expect(await x.toArray()).toEqual(Float32Array.of(1))
    stream.launch(stream.capture(() => ops.fill(stream, { x, value: 3 })))
    expect(await x.toArray()).toEqual(Float32Array.of(3))
  })

  it('a failing graph rejects the wait for the stream that launched it, and leaves parameters unchanged', async () => {
    const stream = device.createStream()
    const [rows, table, ids] = [device.tensor('float32', [1, 1]), scalar(5), device.tensor('int32', [1])]
    const [master, m, v, grad] = [1, 0, 0, 1].map((value) => scalar(value).view([1]))
    await device.stream.synchronize()
    const step = () => {
      const betas = { beta1: 0.9, beta2: 0.95 }
      ops.adamw(stream, { master, m, v, grad, lr: 0.5, ...betas, eps: 0, weightDecay: 0, gradScale: 1, step: 1 })
    }
    const graph = device.stream.capture(() => ops.embeddingForward(device.stream, { out: rows, ids, w: table }))
    stream.write(ids, Int32Array.of(1))
    stream.launch(graph)
    step()
    await expect(stream.synchronize()).rejects.toMatchObject({
      code: 'INVALID_INDEX',
      message: 'embedding_forward: id 1 is outside [0, 1)',
    })
    await device.stream.synchronize()
    expect(await master.toArray(stream)).toEqual(Float32Array.of(1))
    stream.write(ids, Int32Array.of(0))
    stream.launch(graph)
    step()
    expect(await master.toArray(stream)).toEqual(Float32Array.of(0.5))
    expect(await rows.toArray(stream)).toEqual(Float32Array.of(5))
  })

  it.runIf(device.type === 'cpu')(
    'a failing graph skips its remaining ops, and later ones, until the stream is waited for',
    async () => {
      const { stream } = device
      const x = scalar(1)
      const [rows, table, ids] = [device.tensor('float32', [1, 1]), scalar(5), device.tensor('int32', [1])]
      const graph = stream.capture(() => {
        ops.embeddingForward(stream, { out: rows, ids, w: table })
        ops.fill(stream, { x, value: 2 })
      })
      stream.write(ids, Int32Array.of(1))
      stream.launch(graph)
      ops.fill(stream, { x, value: 3 })
      await expect(stream.synchronize()).rejects.toMatchObject({
        code: 'INVALID_INDEX',
        message: 'embedding_forward: id 1 is outside [0, 1)',
      })
      expect(await x.toArray()).toEqual(Float32Array.of(1))
      stream.write(ids, Int32Array.of(0))
      stream.launch(graph)
      expect(await x.toArray()).toEqual(Float32Array.of(2))
      expect(await rows.toArray()).toEqual(Float32Array.of(5))
    },
  )
})
