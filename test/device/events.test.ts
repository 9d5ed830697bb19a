import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { deviceTypes } from '../support/devices.js'
import { slowWork } from '../support/slow-work.js'

describe.each(deviceTypes)('an event on $name', ({ device }) => {
  /**
   * One stream is slow and then writes 2 over 1; another copies the current value, with or without waiting for the
   * event.
   */
  async function race(ordered: boolean, milliseconds: number): Promise<number> {
    const enqueue = await slowWork(device, milliseconds)
    const [producer, consumer] = [device.createStream(), device.createStream()]
    const [x, copy] = [device.tensor('float32', [1]), device.tensor('float32', [1])]
    ops.fill(producer, { x, value: 1 })
    await producer.synchronize()
    const written = device.createEvent()
    enqueue(producer)
    ops.fill(producer, { x, value: 2 })
    producer.record(written)
    if (ordered) consumer.wait(written)
    ops.cast(consumer, { dst: copy, src: x })
    const [value] = await copy.toArray(consumer)
    await producer.synchronize()
    return value
  }

  it('an event makes one stream wait for another', async () => {
    for (let i = 0; i < 3; i++) expect(await race(true, 30)).toBe(2)
  })

  it('without an event, a second stream does not wait', async () => {
    // The slow work is extended until the other stream's thread is scheduled and gets ahead of it.
    const values: number[] = []
    for (let milliseconds = 50; milliseconds <= 1600 && !values.includes(1); milliseconds *= 2) {
      values.push(await race(false, milliseconds))
    }
    expect(values).toContain(1)
  })

  it('an event that is recorded repeatedly orders streams in both directions', async () => {
    const [a, b] = [device.createStream(), device.createStream()]
    const [forth, back] = [device.createEvent(), device.createEvent()]
    const one = device.tensor('float32', [1, 1])
    const sum = device.tensor('float32', [1, 1])
    ops.fill(a, { x: one, value: 1 })
    ops.fill(a, { x: sum, value: 0 })
    for (let i = 0; i < 200; i++) {
      // Each adds to the result of the other: sum = 2 · sum + 1 on one, sum = sum / 2 on the other.
      ops.matmul(a, { c: sum, a: one, b: one, beta: 2 })
      a.record(forth)
      b.wait(forth)
      ops.matmul(b, { c: sum, a: one, b: one, alpha: 0, beta: 0.5 })
      b.record(back)
      a.wait(back)
    }
    // The limit of s → (2s + 1) / 2 = s + ½, 200 times.
    expect(await sum.toArray(a)).toEqual(Float32Array.of(100))
  })

  it('waiting for an event that was never recorded returns at once', async () => {
    const stream = device.createStream()
    stream.wait(device.createEvent())
    await stream.synchronize()
  })

  it('a wait refers to the last record of the event before it', async () => {
    const [producer, consumer] = [device.createStream(), device.createStream()]
    const event = device.createEvent()
    producer.record(event)
    consumer.wait(event)
    // A later record that the consumer itself must precede: waiting for it would be a deadlock.
    const done = device.createEvent()
    consumer.record(done)
    producer.wait(done)
    producer.record(event)
    await Promise.all([producer.synchronize(), consumer.synchronize()])
  })

  it('an event is also recorded by a failed stream, so that no wait hangs', async () => {
    const [failing, waiting] = [device.createStream(), device.createStream()]
    const ids = device.tensor('int32', [1])
    failing.write(ids, Int32Array.of(-1))
    const table = device.tensor('float32', [1, 1])
    ops.embeddingForward(failing, { out: table, ids, w: table })
    const event = device.createEvent()
    failing.record(event)
    waiting.wait(event)
    await waiting.synchronize()
    await expect(failing.synchronize()).rejects.toMatchObject({ code: 'INVALID_INDEX' })
  })
})
