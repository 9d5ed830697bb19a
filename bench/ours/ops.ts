/** Single ops: each line names one. */
import { openBenchDevice } from '../device.js'
import { allOps } from '../ops/all.js'
import { Operands } from '../ops/case.js'
import { serve } from './serve.js'
import { timed } from './timed.js'

async function main(): Promise<void> {
  const device = openBenchDevice()
  await serve(async (name) => {
    using operands = new Operands(device)
    const enqueue = allOps.find(({ op }) => op === name)!.prepare(operands)
    return { seconds: await timed(device.stream, () => enqueue(device.stream)) }
  })
}

void main()
