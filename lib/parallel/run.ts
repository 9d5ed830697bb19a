/** A rank's part in a run: it finds the others, and makes sure that all mean the same run. */
import { openDevice } from '../device.js'
import type { Recipe } from '../train/recipe-schema.js'
import { packageVersion } from '../version.js'
import { Communicator } from './communicator.js'
import type { RankPlace } from './environment.js'
import { RankGroup } from './group.js'
import { Rendezvous } from './rendezvous.js'

/** Where a rank writes to is its own affair. */
const mayDiffer = new Set(['threads', 'log_every'])

/**
 * Joins the run.
 * @throws {ParallelError} when the ranks do not find each other, or disagree on the recipe or the version
 */
export async function joinRun(place: RankPlace, recipe: Recipe): Promise<RankGroup> {
  const rendezvous = await Rendezvous.join({ ...place, timeout: recipe.collective_timeout })
  try {
    const shared = Object.entries(recipe).filter(([key]) => !mayDiffer.has(key))
    await rendezvous.agree({ 'the version of openalpaca-native': packageVersion, ...Object.fromEntries(shared) })
    const device = openDevice(recipe.device)
    const stream = device.createStream()
    const communicator = await Communicator.connect(rendezvous, device, stream, { timeout: recipe.collective_timeout })
    return RankGroup.of(device, communicator, stream, recipe.zero_stage as 0 | 1 | 2 | 3, rendezvous, {
      prefetchBlocks: recipe.prefetch_blocks,
    })
  } catch (error) {
    rendezvous.fail((error as Error).message)
    rendezvous.close() // an open connection keeps the process alive
    throw error
  }
}
