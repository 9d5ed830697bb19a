/** A rank's entry into a run: it connects to the other ranks and checks that all of them have the same recipe. */
import { chooseGpu, countDevices, openDevice } from '../device.js'
import { Communicator } from '../parallel/communicator.js'
import type { RankPlace } from '../parallel/environment.js'
import { RankGroup } from '../parallel/group.js'
import { Rendezvous } from '../parallel/rendezvous.js'
import { packageVersion } from '../version.js'
import type { Recipe } from './recipe-schema.js'

/** Keys in which ranks may differ. */
const mayDiffer = new Set(['threads', 'log_every'])

/**
 * Joins the run.
 * @param signal ends the wait for other ranks, with its reason
 * @throws {ParallelError} for ranks that do not connect, or that disagree on the recipe or the version
 */
export async function joinRun(place: RankPlace, recipe: Recipe, signal: AbortSignal): Promise<RankGroup> {
  const rendezvous = await Rendezvous.join({ ...place, timeout: recipe.collective_timeout, signal })
  try {
    return await rendezvous.unlessAborted(signal, () => connectRanks(rendezvous, place, recipe))
  } catch (error) {
    rendezvous.fail((error as Error).message)
    rendezvous.close() // an open connection keeps the process alive
    throw error
  }
}

async function connectRanks(rendezvous: Rendezvous, place: RankPlace, recipe: Recipe): Promise<RankGroup> {
  const { collective_timeout: timeout, backend } = recipe
  const shared = Object.entries(recipe).filter(([key]) => !mayDiffer.has(key))
  await rendezvous.agree({ 'the version of openalpaca-native': packageVersion, ...Object.fromEntries(shared) })
  if (recipe.device !== 'cpu') chooseGpuOf(place.localRank)
  const device = openDevice(recipe.device)
  const communicator = await Communicator.connect(rendezvous, device, { timeout, backend })
  const stage = recipe.zero_stage as 0 | 1 | 2 | 3
  const { prefetch_blocks: prefetchBlocks } = recipe
  return RankGroup.of(device, communicator, device.createStream(), stage, rendezvous, { prefetchBlocks })
}

/**
 * Chooses a rank's GPU if its process sees those of all ranks on the machine, as under torchrun. With fewer GPUs than
 * ranks, ranks share them; an assignment of one GPU per rank by the launcher or job scheduler is kept.
 */
function chooseGpuOf(localRank: number): void {
  let count = 0
  try {
    count = countDevices('cuda')
  } catch {
    return // opening the device reports why
  }
  chooseGpu(localRank % count)
}
