/**
 * Measures the system's limit: each process sends bytes to the next one over TCP on this machine, and receives the same
 * number of bytes from the previous one. A line has the bytes, and the number of repetitions.
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
  // One buffer for all incoming data, which is never read.
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
    if (received >= wanted) arrived() // the previous process was faster
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
