/**
 * What the system can carry: each process sends bytes to the next over TCP on this machine, and receives as many from
 * the one before. A line has the bytes, and how often.
 */
import { once } from 'node:events'
import net from 'node:net'
import { Rendezvous } from '#lib/parallel/rendezvous.js'
import type { Member } from '../team.js'
import { childOptions, serve } from './serve.js'

const piece = 2 ** 20

async function main(): Promise<void> {
  const { rank, size, port } = childOptions<Member>()
  const rendezvous = await Rendezvous.join({ rank, size, port, address: '127.0.0.1', timeout: 300 })
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const ports = await rendezvous.exchange('ports', (server.address() as net.AddressInfo).port)

  let received = 0
  let wanted = Number.POSITIVE_INFINITY
  let arrived = () => {}
  const connection = once(server, 'connection')
  const receive = (count: number) => {
    received += count
    if (received >= wanted) arrived()
    return true
  }
  const before = ports[(rank + size - 1) % size]
  // One buffer for all that comes, which nobody looks at.
  net.connect({ host: '127.0.0.1', port: before, onread: { buffer: Buffer.allocUnsafeSlow(piece), callback: receive } })
  const [sender] = (await connection) as [net.Socket]
  const memory = Buffer.alloc(piece, 1)

  await serve(async (line) => {
    const [bytes, count] = line.split(' ').map(Number)
    const all = bytes * count
    wanted = all
    const complete = new Promise<void>((resolve) => {
      arrived = resolve
    })
    if (received >= wanted) arrived() // the one before was quick
    const start = performance.now()
    for (let sent = 0; sent < all; sent += piece) {
      if (!sender.write(memory.subarray(0, Math.min(piece, all - sent)))) await once(sender, 'drain')
    }
    await complete
    received -= all
    wanted = Number.POSITIVE_INFINITY
    return { seconds: (performance.now() - start) / count / 1000 }
  })
}

void main()
