// One rank that runs every collective, and prints the results. Run by test/parallel/communicator.test.ts.
import { createHash } from 'node:crypto'
import { openDevice } from '#lib/device.js'
import { cast, fill, randomNormal } from '#lib/ops.js'
import { Communicator } from '#lib/parallel/communicator.js'
import { Rendezvous } from '#lib/parallel/rendezvous.js'

const { rank, size, port, lengths, repeats = 1, device: type = 'cpu' } = JSON.parse(process.argv[2])
const device = openDevice(type)
const host = openDevice('cpu') // numbers are generated on it, since other devices have different logarithms
const stream = device.createStream()
const rendezvous = await Rendezvous.join({ rank, size, port, address: '127.0.0.1', timeout: 30 })
const communicator = await Communicator.connect(rendezvous, device, { timeout: 30 })

const print = (value) => console.log(JSON.stringify(value))
const tensor = async (dtype, n, seed) => {
  const [x, drawn] = [device.tensor(dtype, [n]), host.tensor(dtype, [n])]
  randomNormal(host.stream, { x: drawn, std: 1, seed, streamId: n })
  stream.write(x, await drawn.toArray())
  return x
}
/** The bits as a hash, which detects any difference, and the first elements, for diagnosis. */
const read = async (x) => {
  const bits = await x.toArray(stream)
  return { hash: createHash('sha256').update(bits).digest('hex'), first: Array.from(bits.subarray(0, 4)) }
}

for (let repeat = 0; repeat < repeats; repeat++) {
  for (const dtype of ['float32', 'bfloat16']) {
    for (const n of lengths) {
      const shard = await tensor(dtype, n, rank)
      const all = device.tensor(dtype, [n * size])
      communicator.allGather(stream, { out: all, input: shard })
      // The same in place.
      const placed = device.tensor(dtype, [n * size])
      fill(stream, { x: placed, value: 0 })
      const own = placed.view([n], rank * n)
      cast(stream, { dst: own, src: shard })
      communicator.allGather(stream, { out: placed, input: own })

      const terms = await tensor(dtype, n * size, 100 + rank)
      const sum = device.tensor(dtype, [n])
      communicator.reduceScatter(stream, { out: sum, input: terms })
      const inPlace = terms.view([n], rank * n)
      communicator.reduceScatter(stream, { out: inPlace, input: terms })

      const total = await tensor(dtype, n, 200 + rank)
      communicator.allReduce(stream, total)
      const root = size - 1
      const shared = await tensor(dtype, n, 300 + rank)
      communicator.broadcast(stream, shared, root)
      communicator.barrier(stream)
      const results = { all, placed, sum, inPlace, total, shared }
      const entries = Object.entries(results).map(async ([name, x]) => [name, await read(x)])
      print({ dtype, n, repeat, ...Object.fromEntries(await Promise.all(entries)) })
    }
  }
}
rendezvous.close()
