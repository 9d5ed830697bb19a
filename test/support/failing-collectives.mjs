// A rank whose run fails according to `fault`; tests run one for each rank. Prints the outcome. Run by
// test/parallel/communicator.test.ts.
import { openDevice } from '#lib/device.js'
import { fill } from '#lib/ops.js'
import { Communicator } from '#lib/parallel/communicator.js'
import { Rendezvous } from '#lib/parallel/rendezvous.js'

const { rank, size, port, fault, culprit = 1, timeout = 30 } = JSON.parse(process.argv[2])
const print = (value) => console.log(JSON.stringify(value))
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))

let rendezvous
try {
  const device = openDevice('cpu')
  const stream = device.createStream()
  const said = fault === 'size' && rank === culprit ? size + 1 : size
  rendezvous = await Rendezvous.join({ rank, size: said, port, address: '127.0.0.1', timeout })
  await rendezvous.agree({ version: '1', learning_rate: fault === 'recipe' && rank === culprit ? 2e-4 : 1e-4 })
  const communicator = await Communicator.connect(rendezvous, device, { timeout })
  const shard = device.tensor('float32', [1000])
  const all = device.tensor('float32', [1000 * size])
  fill(stream, { x: shard, value: rank })
  communicator.allGather(stream, { out: all, input: shard })
  await stream.synchronize()
  print('ready')
  if (rank === culprit) {
    if (fault === 'kill') process.kill(process.pid, 'SIGKILL')
    if (fault === 'hang') await wait(1e9)
    if (fault === 'fail') {
      rendezvous.fail('its disk is full')
      process.exit(1)
    }
  }
  // The culprit's part of a collective has reached the last rank, which waits in the next one, and not the others.
  if (fault === 'hang') {
    if (rank === size - 1) communicator.allGather(stream, { out: all, input: shard })
    else communicator.broadcast(stream, shard, culprit)
    await stream.synchronize()
  }
  // A rank that never computes, so that the loss shows in a collective.
  for (let i = 0; i < 1e6; i++) {
    communicator.reduceScatter(stream, { out: shard, input: all })
    await stream.synchronize()
  }
} catch (error) {
  const { code, message } = rendezvous ? await rendezvous.explain(error) : error
  print({ code, message })
  process.exit(1)
}
