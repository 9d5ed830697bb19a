import type { Stream } from '#lib/device.js'
import { deviceName } from '../device.js'

/** Long enough for the clock and for the cores to reach full speed. */
const milliseconds = deviceName === 'emulated' ? 0.001 : 50
/** Launches in a graph. */
const inGraph = deviceName === 'emulated' ? 1 : 20

/**
 * The seconds of an op in back-to-back execution. On a GPU that needs a graph of many launches: a single launch takes
 * JavaScript as long as a small kernel takes.
 */
export async function timed(stream: Stream, enqueue: () => void): Promise<number> {
  let work = enqueue
  let each = 1
  enqueue()
  if (deviceName !== 'cpu') {
    const graph = stream.capture(() => {
      for (let i = 0; i < inGraph; i++) enqueue()
    })
    work = () => stream.launch(graph)
    each = inGraph
  }
  const time = async (count: number) => {
    await stream.synchronize()
    const start = performance.now()
    for (let i = 0; i < count; i++) work()
    await stream.synchronize()
    return (performance.now() - start) / count
  }
  await time(1)
  const count = Math.max(1, Math.ceil(milliseconds / (await time(2))))
  return (await time(count)) / each / 1000
}
