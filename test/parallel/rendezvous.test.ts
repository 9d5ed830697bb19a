import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it, vi } from 'vitest'
import { checkAddress } from '../../lib/parallel/address.js'
import { freePort } from '../../lib/parallel/launcher.js'
import { Rendezvous } from '../../lib/parallel/rendezvous.js'

type Options = Parameters<typeof Rendezvous.join>[0]

/** Connected ranks of this process. */
async function meet(size: number): Promise<Rendezvous[]> {
  const place = { size, address: '127.0.0.1', port: await freePort(), timeout: 60 }
  return await Promise.all(Array.from({ length: size }, (_, rank) => Rendezvous.join({ ...place, rank })))
}

const lost = (what: string) => ({ code: 'RANK_LOST', message: expect.stringContaining(what) })

const pairs = [
  { leaver: 1, waiter: 0 },
  { leaver: 0, waiter: 1 },
]

describe('the address of rank 0', () => {
  const failing = (code: string, times = Number.POSITIVE_INFINITY) =>
    vi.fn(async () => {
      if (times-- > 0) throw Object.assign(new Error('getaddrinfo'), { code })
    })

  it('an address of rank 0 that no name server knows is rejected at once', async () => {
    const resolve = failing('ENOTFOUND')
    await expect(checkAddress('no-such-host', { resolve })).rejects.toMatchObject({
      code: 'INVALID_ENVIRONMENT',
      message: expect.stringMatching(/^MASTER_ADDR is "no-such-host", .* cannot resolve \(ENOTFOUND\): set it/),
    })
    expect(resolve).toHaveBeenCalledTimes(1)
  })

  it('an address of rank 0 is resolved again while the name server is busy or a pod may still start', async () => {
    await checkAddress('node-a', { resolve: failing('EAI_AGAIN', 1) })
    await checkAddress('pod-0', { resolve: failing('ENOTFOUND', 1), appearsWithin: 60 })
  })

  it('an address of rank 0 may be a number, including IPv6', async () => {
    for (const address of ['127.0.0.1', '::1', 'localhost']) await checkAddress(address)
  })

  it('resolving the address of rank 0 stops on a signal', async () => {
    const stop = new AbortController()
    const checking = checkAddress('pod-0', { resolve: failing('ENOTFOUND'), appearsWithin: 60, signal: stop.signal })
    stop.abort()
    await expect(checking).rejects.toThrow(/abort/)
  })
})

describe('ranks of one machine', () => {
  it.each(['::1', 'localhost', '127.0.0.1'])(
    'ranks that meet at %s know each other by one address',
    async (address) => {
      const place = { size: 2, address, port: await freePort(), timeout: 60 }
      const ranks = await Promise.all([0, 1].map((rank) => Rendezvous.join({ ...place, rank })))
      expect(ranks.map((rank) => rank.address)).toEqual(['127.0.0.1', '127.0.0.1'])
      for (const rank of ranks.reverse()) rank.close()
    },
  )
})

describe('a rank', () => {
  it.each([0, 1])('rank %i of 2, waiting for others, ends with the reason of its signal', async (rank) => {
    const place: Options = { rank, size: 2, address: '127.0.0.1', port: await freePort(), timeout: 60 }
    const controller = new AbortController()
    const joining = Rendezvous.join({ ...place, signal: controller.signal })
    await sleep(50)
    const reason = new Error('stopped')
    controller.abort(reason)
    await expect(joining).rejects.toBe(reason)

    const again = await Rendezvous.join({ ...place, rank: 0, size: 1 }) // the port is free
    again.close()
  })

  it('no rank waits for one that gives up before all have met', async () => {
    const place = { size: 3, address: '127.0.0.1', port: await freePort(), timeout: 60 }
    const controller = new AbortController()
    const first = Rendezvous.join({ ...place, rank: 0, signal: controller.signal })
    const second = Rendezvous.join({ ...place, rank: 1 })
    await sleep(50)
    controller.abort()
    await expect(first).rejects.toThrow('aborted')
    await expect(second).rejects.toMatchObject(lost('rank 0 of 3 has left the run'))
  })

  it('a rank that stops while ranks connect ends the wait of the others', async () => {
    const [zero, one] = await meet(2)
    const controller = new AbortController()
    const reason = new Error('stopped')
    const work = zero.unlessAborted(controller.signal, () => zero.exchange('devices', 0))
    const deaf = zero.unlessAborted(controller.signal, () => sleep(50))
    controller.abort(reason)
    await expect(work).rejects.toBe(reason)
    await expect(deaf).rejects.toBe(reason)
    zero.fail('stopped')
    await expect(one.exchange('devices', 1)).rejects.toMatchObject(lost('rank 0 of 2 failed: stopped'))
    one.close()
    zero.close()
  })

  it.each(pairs)('rank $leaver that leaves ends the wait of rank $waiter', async (ranks) => {
    const all = await meet(2)
    const [leaver, waiter] = [all[ranks.leaver], all[ranks.waiter]]
    const begun = waiter.exchange('answers', 1)
    leaver.close()
    await expect(begun).rejects.toMatchObject(lost(`rank ${ranks.leaver} of 2 has left the run`))
    waiter.close()
  })

  it.each(pairs)('rank $leaver that has left makes a later request of rank $waiter fail', async (ranks) => {
    const all = await meet(2)
    const [leaver, waiter] = [all[ranks.leaver], all[ranks.waiter]]
    leaver.close()
    await sleep(50)
    await expect(waiter.exchange('answers', 1)).rejects.toMatchObject(
      lost(`rank ${ranks.leaver} of 2 has left the run`),
    )
    waiter.close()
  })

  it('a rank that has left keeps no process alive, even with messages in flight', async () => {
    const [zero, one, two] = await meet(3)
    const timers = vi.spyOn(globalThis, 'setTimeout')
    zero.lost.addEventListener('abort', () => {
      zero.close()
      timers.mockClear()
    })
    await new Promise(setImmediate)
    one.fail('its disk is full')
    await new Promise(setImmediate) // the message has been read, and rank 0 gets it together with the next one
    await expect(two.exchange('answers', 1)).rejects.toMatchObject(lost('rank 1 of 3 failed'))
    await sleep(50)
    expect(timers.mock.calls.filter(([, delay]) => delay === 60_000)).toEqual([])
    timers.mockRestore()
    one.close()
    two.close()
  })

  it('a rank that leaves closes the connections of clients that are not ranks', async () => {
    const port = await freePort()
    const zero = await Rendezvous.join({ rank: 0, size: 1, address: '127.0.0.1', port })
    const stranger = net.connect(port, '127.0.0.1').on('error', () => {})
    await once(stranger, 'connect')
    await sleep(50)
    zero.close()
    await once(stranger, 'close')
  })
})
