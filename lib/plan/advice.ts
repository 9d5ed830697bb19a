/** Suggests settings that make a run fit. */
import { type PlanOptions, planMemory } from './plan.js'

export interface Advice {
  /** The flags to add. */
  flags: string
  /** Bytes per rank with them. */
  total: number
}

/** The largest cluster to try, in ranks. */
const mostRanks = 4096
/** Micro-batches are tried in multiples of this many tokens. */
const tokenStep = 256

/** Independent alternatives, the least costly first; empty if none is sufficient. */
export async function adviceFor(options: PlanOptions): Promise<Advice[]> {
  const all: Advice[] = []
  for (const way of [smallerMicroBatch, higherStage, offloading, moreRanks]) {
    const advice = await way(options)
    if (advice) all.push(advice)
  }
  return all
}

async function outcome(options: PlanOptions, flags: string): Promise<Advice | undefined> {
  const { fits, total } = await planMemory(options)
  return fits ? { flags, total } : undefined
}

/** The maximum number of tokens that fits, at least that of the longest instance. */
async function smallerMicroBatch(options: PlanOptions): Promise<Advice | undefined> {
  const of = (tokens: number) => ({
    ...options,
    recipe: { ...options.recipe, max_tokens_per_micro_batch: tokens },
  })
  const planned = (await planMemory(options)).max_tokens
  const least = (await planMemory(of(1))).max_tokens
  if (least === planned || !(await planMemory(of(least))).fits) return undefined
  let tokens = least
  while (tokens + tokenStep < planned && (await planMemory(of(tokens + tokenStep))).fits) tokens += tokenStep
  return outcome(of(tokens), `--max_tokens_per_micro_batch ${tokens}`)
}

async function higherStage(options: PlanOptions): Promise<Advice | undefined> {
  const { recipe, ranks } = options
  for (let stage = recipe.zero_stage + 1; ranks > 1 && stage <= 3; stage++) {
    const advice = await outcome({ ...options, recipe: { ...recipe, zero_stage: stage } }, `--zero_stage ${stage}`)
    if (advice) return advice
  }
  return undefined
}

/** Masters and moments in host memory; on the CPU they are already there. */
async function offloading(options: PlanOptions): Promise<Advice | undefined> {
  const { device, recipe } = options
  if (device === 'cpu' || recipe.offload !== 'none') return undefined
  return await outcome({ ...options, recipe: { ...recipe, offload: 'optimizer' } }, '--offload optimizer')
}

/** More ranks on machines of the same size, doubling each time. */
async function moreRanks(options: PlanOptions): Promise<Advice | undefined> {
  const { device, recipe } = options
  const flag = device === 'cpu' ? '--ranks' : '--gpus'
  // A machine has at most eight; beyond that, more machines are added.
  for (let ranks = 2 * options.ranks; ranks <= mostRanks && recipe.zero_stage > 0; ranks *= 2) {
    const perNode = Math.max(options.ranks / options.nodes, 8)
    const nodes = device === 'cpu' ? options.nodes : Math.ceil(ranks / perNode)
    if (ranks % nodes !== 0) continue
    const advice = await outcome(
      { ...options, ranks, nodes },
      `${flag} ${ranks}${nodes > 1 ? ` --nodes ${nodes}` : ''}`,
    )
    if (advice) return advice
  }
  return undefined
}
