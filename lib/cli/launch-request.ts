import { backends } from '../device.js'
import type { NodePlace, RankPlace } from '../parallel/environment.js'
import type { LaunchOptions } from '../parallel/launcher.js'
import type { Recipe } from '../train/recipe-schema.js'
import { UsageError } from './failure.js'

/**
 * What the launcher has to start, where this process is to be the launcher: with --gpus or --ranks, or on a machine of
 * a Kubernetes job. undefined where it is itself a rank, or trains alone.
 * @throws {UsageError} for more processes than there can be
 */
export function launchRequest(recipe: Recipe, place: RankPlace | NodePlace | undefined): LaunchOptions | undefined {
  const { gpus, ranks, device } = recipe
  if (place?.kind === 'rank') return undefined
  if (gpus !== undefined && ranks !== undefined) throw new UsageError('use --gpus or --ranks, not both')
  const count = ranks ?? place?.ranksPerNode ?? gpus ?? 1
  const nodes = place && place.nodes > 1 ? place : undefined
  if (count === 1 && !nodes) return undefined
  const onGpus = ranks === undefined && device !== 'cpu'
  if (ranks !== undefined && device === 'cuda') throw new UsageError('--ranks is for the CPU: use --gpus with cuda')
  if (gpus !== undefined && device === 'cpu') throw new UsageError('--gpus is not for the CPU: use --ranks')
  const cuda = backends().find((backend) => backend.device === 'cuda')
  if (onGpus && !cuda?.available) {
    throw new UsageError(
      `this machine has no GPU to use (${cuda?.reason ?? 'none was found'}); to train in ${count} processes on its CPU: ` +
        `--device cpu --ranks ${count}`,
    )
  }
  return {
    args: process.argv.slice(1),
    ranks: count,
    gpus: onGpus,
    nodes: nodes && { count: nodes.nodes, rank: nodes.nodeRank, address: nodes.address, port: nodes.port },
    maxRestarts: recipe.save_path === undefined ? 0 : recipe.max_restarts,
    restartArgs: ['--resume', 'auto'],
    say: (text) => console.error(text),
  }
}
