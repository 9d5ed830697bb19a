/** A rank's part in a run: it finds the others, and makes sure that all mean the same run. */
import { chooseGpu, countDevices, openDevice } from '../device.js'
import { Communicator } from '../parallel/communicator.js'
import type { RankPlace } from '../parallel/environment.js'
import { RankGroup } from '../parallel/group.js'
import { Rendezvous } from '../parallel/rendezvous.js'
import { packageVersion } from '../version.js'
import type { Recipe } from './recipe-schema.js'

/** Where a rank writes to is its own affair. */
const mayDiffer = new Set(['threads', 'log_every'])

/**
 * Joins the run.
 * @param signal ends the waiting for other ranks, with its reason
 * @throws {ParallelError} when the ranks do not find each other, or disagree on the recipe or the version
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
 * A rank's GPU where its process sees those of all ranks of its machine, as under torchrun. Where there are fewer than
 * ranks, they take turns; what the launcher or the job's scheduler has dealt out, one to each rank, stays as it is.
 */
function chooseGpuOf(localRank: number): void {
  let count = 0
  try {
    count = countDevices('cuda')
  } catch {
    return // opening one tells the reason
  }
  chooseGpu(localRank % count)
}
