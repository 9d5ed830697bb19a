/** Ranks of a run within this process, each with its own device, to observe all of them. */

import { Device, type DeviceType, type Stream } from '../../lib/device.js'
import { native } from '../../lib/native.js'
import { type Backend, Communicator } from '../../lib/parallel/communicator.js'
import { freePort } from '../../lib/parallel/launcher.js'
import { Rendezvous } from '../../lib/parallel/rendezvous.js'

export interface LocalRank {
  rank: number
  device: Device
  /** The communication stream. */
  stream: Stream
  rendezvous: Rendezvous
  communicator: Communicator
}

interface Options {
  backend?: Backend | 'auto'
  /** The GPU of each rank. @default its number */
  gpuOf?: (rank: number) => number
  /** Seconds. */
  timeout?: number
}

/** An emulated GPU with a number that distinguishes it from others. */
function openGpu(number: number): Device {
  process.env.OPENALPACA_EMULATOR_GPU = String(number)
  return new Device('emulated' as DeviceType, native.deviceOpen('emulated'))
}

/** Connects emulated GPUs, calls `work`, and disconnects. At most four ranks: each needs a thread to connect. */
export async function withLocalRanks<T>(
  size: number,
  { backend, gpuOf = (rank) => rank, timeout = 30 }: Options,
  work: (ranks: LocalRank[]) => Promise<T>,
): Promise<T> {
  const place = { size, port: await freePort(), address: '127.0.0.1', timeout: 30 }
  const meetings = await Promise.all(Array.from({ length: size }, (_, rank) => Rendezvous.join({ ...place, rank })))
  try {
    const ranks = await Promise.all(
      meetings.map(async (rendezvous, rank) => {
        const device = openGpu(gpuOf(rank))
        const communicator = await Communicator.connect(rendezvous, device, { timeout, backend })
        return { rank, device, stream: device.createStream(), rendezvous, communicator }
      }),
    )
    const result = await work(ranks)
    for (const { communicator } of ranks) communicator.dispose()
    return result
  } finally {
    for (const rendezvous of meetings.reverse()) rendezvous.close()
  }
}
