/** Work that keeps a stream busy, for tests of concurrent behavior. */
import type { Device, Stream } from '../../lib/device.js'
import * as ops from '../../lib/ops.js'
import { tensorOf } from './tensors.js'

/**
 * Matrix products that take about `milliseconds` in total, as measured now; returns the function that enqueues them.
 */
export async function slowWork(device: Device, milliseconds: number): Promise<(stream: Stream) => void> {
  const size = device.type === 'cuda' ? 2048 : 256 // a product must take longer than enqueueing it
  const [a, b, c] = [0, 1, 2].map(() => tensorOf(device, 'float32', [size, size], 0))
  const enqueue = (stream: Stream, count: number) => {
    for (let i = 0; i < count; i++) ops.matmul(stream, { c, a, b })
  }
  enqueue(device.stream, 3) // the first ones include setup
  await device.stream.synchronize()
  const start = performance.now()
  enqueue(device.stream, 20)
  await device.stream.synchronize()
  const each = (performance.now() - start) / 20
  return (stream) => enqueue(stream, Math.ceil(milliseconds / each))
}
