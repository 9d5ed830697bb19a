/** Single ops: each line names one. */
import { openDevice } from '#lib/device.js'
import { allOps } from '../ops/all.js'
import { Operands } from '../ops/case.js'
import { serve } from './serve.js'

/** Long enough for the clock and for the cores to be at speed. */
const milliseconds = 50

async function main(): Promise<void> {
  const device = openDevice('cpu')
  const { stream } = device

  await serve(async (name) => {
    using operands = new Operands(device)
    const enqueue = allOps.find(({ op }) => op === name)!.prepare(operands)
    const time = async (count: number) => {
      await stream.synchronize()
      const start = performance.now()
      for (let i = 0; i < count; i++) enqueue(stream)
      await stream.synchronize()
      return (performance.now() - start) / count
    }
    await time(1)
    const count = Math.ceil(milliseconds / (await time(2)))
    return { seconds: (await time(count)) / 1000 }
  })
}

void main()
