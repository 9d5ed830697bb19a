import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { bytesPerElement, type DType } from '../../lib/tensor.js'
import { deviceTypes } from '../support/devices.js'
import { slowWork } from '../support/slow-work.js'
import { tensorOf, valuesOf } from '../support/tensors.js'

/** Enables node --expose-gc for the rest of this process. */
function collectGarbage(): void {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
}

describe.each(deviceTypes)('a tensor on $name', ({ device }) => {
  const stream = device.stream
  const ended = (argument: string) => expect.objectContaining({ message: `${argument} has been disposed of` })

  it.each([
    ['float32', Float32Array.of(1.5, -2)],
    ['int32', Int32Array.of(7, -(2 ** 31))],
    ['bfloat16', Uint16Array.of(0x3f80, 0xffff)],
    ['float16', Uint16Array.of(0x3c00, 0x0001)],
  ] as const)('a tensor of %s returns the elements that were written', async (dtype, elements) => {
    const tensor = device.tensor(dtype, [1, 2])
    stream.write(tensor, elements)
    expect(await tensor.toArray()).toEqual(elements)
    expect(tensor.length).toBe(2)
    expect(tensor.byteLength).toBe(elements.byteLength)
    expect(bytesPerElement(dtype)).toBe(elements.BYTES_PER_ELEMENT)
  })

  it('a tensor may have no elements, or no dimensions', async () => {
    expect((await device.tensor('float32', [3, 0]).toArray()).length).toBe(0)
    expect(await valuesOf(tensorOf(device, 'float32', [], [5]))).toEqual(Float64Array.of(5))
  })

  it('a tensor shares its memory with its views', async () => {
    const whole = tensorOf(
      device,
      'float32',
      [4, 3],
      Array.from({ length: 12 }, (_, i) => i),
    )
    expect(await valuesOf(whole.rows(1, 3))).toEqual(Float64Array.of(3, 4, 5, 6, 7, 8))
    expect(whole.rows(1, 3).shape).toEqual([2, 3])
    const viewOfView = whole.rows(1, 4).view([2, 2], 2)
    expect(await valuesOf(viewOfView)).toEqual(Float64Array.of(5, 6, 7, 8))
    ops.fill(stream, { x: viewOfView, value: -1 })
    expect(await valuesOf(whole)).toEqual(Float64Array.of(0, 1, 2, 3, 4, -1, -1, -1, -1, 9, 10, 11))
  })

  it('a tensor can be viewed as another dtype', async () => {
    const memory = tensorOf(device, 'float32', [2], [1, -1])
    expect(await memory.view([4], 0, 'bfloat16').toArray()).toEqual(Uint16Array.of(0, 0x3f80, 0, 0xbf80))
  })

  it.each([
    [3, 2, 'bytes 8 to 20 are outside of a tensor of 16 bytes'],
    [5, 0, 'bytes 0 to 20 are outside of a tensor of 16 bytes'],
    [1, -1, 'bytes -4 to 0 are outside of a tensor of 16 bytes'],
  ])('a tensor of four elements has no view of %i from element %i', (length, offset, what) => {
    const tensor = device.tensor('float32', [4])
    expect(() => tensor.view([length], offset)).toThrow(new RangeError(`tensorView: ${what}`))
  })

  it('a tensor has no view that begins inside an element', () => {
    const halves = device.tensor('bfloat16', [5])
    expect(() => halves.view([2], 1, 'float32')).toThrow(RangeError)
  })

  it('a disposed tensor cannot be used, nor can its views', () => {
    const owner = device.tensor('float32', [4])
    const view = owner.view([2], 1)
    const viewOfView = view.view([1])
    owner.dispose()
    for (const tensor of [owner, view, viewOfView]) {
      expect(() => ops.fill(stream, { x: tensor, value: 0 })).toThrow(TypeError)
      expect(() => ops.fill(stream, { x: tensor, value: 0 })).toThrow(ended('fill: x'))
      expect(() => stream.write(tensor, new Float32Array(4))).toThrow(ended('write: tensor'))
      expect(() => stream.upload(tensor, new Float32Array(4))).toThrow(ended('upload: tensor'))
      expect(() => stream.read(tensor, new Float32Array(4))).toThrow(ended('read: tensor'))
      expect(() => tensor.view([1])).toThrow(ended('tensorView: tensor'))
    }
  })

  it('a tensor remains after a view is disposed of, and may be disposed of twice', async () => {
    const owner = tensorOf(device, 'float32', [2], [1, 2])
    owner.view([1]).dispose()
    expect(await valuesOf(owner)).toEqual(Float64Array.of(1, 2))
    owner.dispose()
    owner.dispose()
  })

  it('Symbol.dispose disposes of a tensor', () => {
    const tensor = device.tensor('float32', [1])
    tensor[Symbol.dispose]()
    expect(() => ops.fill(stream, { x: tensor, value: 0 })).toThrow(ended('fill: x'))
  })

  it('a tensor keeps its memory until queued work with it is done', async () => {
    const enqueue = await slowWork(device, 30)
    const [a, b] = [tensorOf(device, 'float32', [10_000], 3), device.tensor('float32', [10_000])]
    enqueue(stream)
    ops.cast(stream, { dst: b, src: a })
    a.dispose()
    // If the memory were free by now, one of these would get it and be filled before the copy is made.
    const other = device.createStream()
    for (let i = 0; i < 20; i++) ops.fill(other, { x: device.tensor('float32', [10_000]), value: 9 })
    await other.synchronize()
    expect(await valuesOf(b)).toEqual(new Float64Array(10_000).fill(3))
  })

  it('a tensor is not collected while a view of it is in use', async () => {
    const views = Array.from({ length: 50 }, (_, i) => {
      const tensor = device.tensor('float32', [4])
      ops.fill(device.stream, { x: tensor, value: i })
      return tensor.rows(1, 3).view([2])
    })
    collectGarbage()
    await new Promise((resolve) => setImmediate(resolve)) // finalizers run between tasks
    for (const [i, view] of views.entries()) expect(await view.toArray()).toEqual(Float32Array.of(i, i))
  })

  it('a forgotten tensor is collected, because V8 knows its memory size', async () => {
    const megabytes = 32
    const before = process.memoryUsage().rss
    let most = 0
    for (let i = 0; i < 40; i++) {
      ops.fill(stream, { x: device.tensor('float32', [megabytes * 2 ** 18]), value: 1 })
      await stream.synchronize()
      most = Math.max(most, process.memoryUsage().rss - before)
    }
    // If V8 only saw the small objects, it would keep all 40 of them.
    expect(most / 2 ** 20).toBeLessThan((40 * megabytes) / 2)
  })

  it.each([
    { shape: [2, -1], message: 'tensorCreate: shape[1] must be a non-negative integer' },
    { shape: [1.5], message: 'tensorCreate: shape[0] must be a non-negative integer' },
    { shape: [Number.NaN], message: 'tensorCreate: shape[0] must be a non-negative integer' },
    { shape: ['2'], message: 'tensorCreate: shape[0] must be a non-negative integer' },
    { shape: [1, 1, 1, 1, 1], message: 'tensorCreate: a tensor has at most 4 dimensions' },
    { shape: [2 ** 40, 2 ** 40], message: `tensorCreate: a tensor of shape [${2 ** 40}, ${2 ** 40}] is too large` },
  ])('a tensor cannot have the shape $shape', ({ shape, message }) => {
    expect(() => device.tensor('float32', shape as number[])).toThrow(new RangeError(message))
  })

  it('a tensor cannot have a dtype other than the four', () => {
    const message = "tensorCreate: unknown dtype 'float8'; use float32, bfloat16, float16 or int32"
    expect(() => device.tensor('float8' as DType, [1])).toThrow(new TypeError(message))
  })

  it("a tensor larger than any machine's memory is rejected with a code", () => {
    expect(() => device.tensor('float32', [2 ** 47])).toThrow(expect.objectContaining({ code: 'OUT_OF_MEMORY' }))
  })
})
