/**
 * One rank that repeats a collective: a line has its name, the bytes of the full tensor, and the number of repetitions.
 */
import { fill } from '#lib/ops.js'
import type { Member } from '../team.js'
import { join } from './join.js'
import { childOptions, serve } from './serve.js'

async function main(): Promise<void> {
  const member = childOptions<Member>()
  const { device, stream, communicator } = await join(member, 3)
  await serve(async (line) => {
    const [name, bytes, count] = line.split(' ')
    const part = Number(bytes) / 4 / member.size
    using whole = device.tensor('float32', [part * member.size])
    using own = device.tensor('float32', [part])
    fill(stream, { x: whole, value: 1 })
    fill(stream, { x: own, value: 1 })
    const time = async (times: number) => {
      communicator.barrier(stream)
      await stream.synchronize()
      const start = performance.now()
      for (let i = 0; i < times; i++) {
        if (name === 'all_gather') communicator.allGather(stream, { out: whole, input: own })
        else communicator.reduceScatter(stream, { out: own, input: whole })
      }
      await stream.synchronize()
      return (performance.now() - start) / times / 1000
    }
    await time(1)
    return { seconds: await time(Number(count)) }
  })
}

void main()
