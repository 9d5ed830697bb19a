// Leaves work on a stream of a device and exits, in the way that the arguments select. Run by
// test/device/event-loop.test.ts.
import { openDevice } from '#lib/device.js'
import { fill, matmul } from '#lib/ops.js'

const device = openDevice(process.argv[3])
const x = device.tensor('float32', [300, 300])
fill(device.stream, { x, value: 0 })
// Each product has a different shape, so that code generation for one is in progress whenever the process exits.
for (let rows = 40; rows < 120; rows++) {
  matmul(device.stream, { c: device.tensor('float32', [rows, 300]), a: x.rows(0, rows), b: x })
}

const way = process.argv[2]
if (way === 'waiting') device.stream.synchronize().then(() => console.log('done'))
if (way === 'exit') {
  device.stream.synchronize()
  setTimeout(() => process.exit(0), 20)
}
if (way === 'throw') throw new Error('on purpose')
