// Leaves work on a stream and ends, in the way that the argument says. Run by test/device/event-loop.test.ts.
import { openDevice } from '#lib/device.js'
import { fill, matmul } from '#lib/ops.js'

const device = openDevice('cpu')
const x = device.tensor('float32', [512, 512])
const y = device.tensor('float32', [512, 512])
fill(device.stream, { x, value: 0 })
for (let i = 0; i < 30; i++) matmul(device.stream, { c: y, a: x, b: x })

const way = process.argv[2]
if (way === 'waiting') device.stream.synchronize().then(() => console.log('done'))
if (way === 'exit') {
  device.stream.synchronize()
  process.exit(0)
}
if (way === 'throw') throw new Error('on purpose')
