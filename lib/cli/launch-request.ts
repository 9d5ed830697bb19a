import { countDevices } from '../device.js'
import type { NodePlace, RankPlace } from '../parallel/environment.js'
import type { LaunchOptions } from '../parallel/launcher.js'
import type { Recipe } from '../train/recipe-schema.js'
import { UsageError } from './failure.js'

/**
 * The ranks to start, if this process is the launcher: with --gpus or --ranks, or on a machine of a Kubernetes job.
 * undefined if it is itself a rank, or trains alone.
 * @param countGpus throws, with the reason, if there is none
 * @throws {UsageError} for more processes than possible
 */
export function launchRequest(
  recipe: Recipe,
  place: RankPlace | NodePlace | undefined,
  countGpus = () => countDevices('cuda'),
): LaunchOptions | undefined {
  const { gpus, ranks, device, backend } = recipe
  if (place?.kind === 'rank') return undefined
  if (gpus !== undefined && ranks !== undefined) throw new UsageError('use --gpus or --ranks, not both')
  const count = ranks ?? place?.ranksPerNode ?? gpus ?? 1
  const nodes = place && place.nodes > 1 ? place : undefined
  if (count === 1 && !nodes) return undefined
  if (gpus !== undefined && device === 'cpu') throw new UsageError('--gpus is not for the CPU: use --ranks')
  if (backend === 'nccl' && device === 'cpu') throw new UsageError('--backend nccl is not for the CPU: use gloo')
  let [present, reason] = [0, '']
  try {
    if (device !== 'cpu') present = countGpus()
  } catch (error) {
    reason = (error as Error).message
  }
  // With --ranks, `auto` may select the CPU, and processes may share a GPU.
  const needsGpus = device === 'cuda' || (device === 'auto' && ranks === undefined)
  if (needsGpus && present === 0) {
    throw new UsageError(
      `this machine has no GPU to use (${reason}); to train in ${count} processes on its CPU: ` +
        `--device cpu --ranks ${count}`,
    )
  }
  const fewer = `this machine has ${present} GPU${present === 1 ? '' : 's'}`
  if (ranks === undefined && device !== 'cpu' && count > present) {
    throw new UsageError(
      `${fewer}, and ${count} processes are to have one each: use --gpus ${present}, or let them share with ` +
        `--device cuda --ranks ${count}, which is slower`,
    )
  }
  if (backend === 'nccl' && count > present) {
    throw new UsageError(`${fewer}, and NCCL refuses to share one: use --gpus ${present}, or --backend gloo`)
  }
  return {
    args: process.argv.slice(1),
    ranks: count,
    gpus: present,
    nodes: nodes && { count: nodes.nodes, rank: nodes.nodeRank, address: nodes.address, port: nodes.port },
    maxRestarts: recipe.save_path === undefined ? 0 : recipe.max_restarts,
    restartArgs: ['--resume', 'auto'],
    say: (text) => console.error(text),
  }
}
