import { Communicator } from '#lib/parallel/communicator.js'
import { RankGroup, type Stage } from '#lib/parallel/group.js'
import { Rendezvous } from '#lib/parallel/rendezvous.js'
import { openBenchDevice } from '../device.js'
import type { Member } from '../team.js'

/** The group of a team's ranks, and its communicator. */
export async function join({ rank, size, port }: Member, stage: Stage) {
  const device = openBenchDevice()
  const stream = device.createStream()
  const rendezvous = await Rendezvous.join({ rank, size, port, address: '127.0.0.1', timeout: 300 })
  const communicator = await Communicator.connect(rendezvous, device, { timeout: 300 })
  return { device, stream, communicator, group: RankGroup.of(device, communicator, stream, stage, rendezvous) }
}
