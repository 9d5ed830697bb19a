/** One optimizer step over a global batch of instances, without the bookkeeping of a run. */
import { countLabels, type Instance } from '../data/instances.js'
import { batchTotals, type LossReduction, packSequences, spreadBatch } from '../data/packing.js'
import { NonFiniteError } from '../errors.js'
import type { BatchResult } from '../model/forward-pass.js'
import type { TrainPass } from '../model/train-pass.js'
import type { RankGroup } from '../parallel/group.js'
import { type AdamW, clipScale } from './optimizer.js'

/** Batches have multiples of this many tokens, so that matrix products have few distinct shapes. */
const tokenStep = 64

export interface StepOptions {
  lossReduction: LossReduction
  /** Tokens per micro-batch; a multiple of 64 avoids padding. */
  maxTokens: number
}

export interface BatchLoss {
  loss: number
  /** Share of the labeled tokens whose most likely prediction is correct. */
  accuracy: number
  tokens: number
  labelTokens: number
}

/** The maximum number of tokens that `packSequences` produces for micro-batches of `maxTokens`. */
export function paddedTokens(maxTokens: number): number {
  return Math.ceil(maxTokens / tokenStep) * tokenStep
}

/** The result of this rank's part of a batch. */
interface Outcome {
  loss: number
  correct: number
  /** Instances with a non-finite loss. */
  unfinite: number[]
}

/** Runs this rank's part of a global batch in micro-batches, each enqueued as soon as it is packed. */
async function runBatch(
  { rank, size }: RankGroup,
  instances: readonly Instance[],
  { lossReduction, maxTokens }: StepOptions,
  run: (batch: ReturnType<typeof packSequences>, isLast: boolean) => Promise<BatchResult>,
): Promise<Outcome> {
  const totals = batchTotals(instances)
  const lengths = instances.map(({ inputIds }) => inputIds.length)
  const packed = spreadBatch(lengths, maxTokens, size)[rank]
  const results = await Promise.all(
    packed.map(async (indices, i) => {
      const members = indices.map((index) => instances[index])
      const batch = packSequences(members, { lossReduction, totals, padToMultiple: tokenStep })
      return { members, cuSeqlens: batch.cuSeqlens, ...(await run(batch, i === packed.length - 1)) }
    }),
  )
  let loss = 0
  let correct = 0
  const unfinite = new Set<number>()
  for (const result of results) {
    result.losses.forEach((value, i) => {
      loss += value * result.weights[i]
      correct += result.correct[i]
      if (!Number.isFinite(value)) unfinite.add(result.members[sequenceOf(result.rows[i], result.cuSeqlens)].id)
    })
  }
  return { loss, correct, unfinite: [...unfinite] }
}

/** The number of a rank's instances that an error names. */
const maxNamed = 8

/**
 * Sums the results of all ranks; every rank gets the same sums.
 * @param squares the sum of squares of the gradients that this rank owns
 */
async function addUp(group: RankGroup, { loss, correct, unfinite }: Outcome, squares = 0) {
  const named = Array.from({ length: maxNamed }, (_, i) => unfinite[i] ?? -1)
  const all = await group.gatherNumbers([loss, correct, squares, ...named])
  const sum = (i: number) => all.reduce((total, values) => total + values[i], 0)
  return {
    loss: sum(0),
    correct: sum(1),
    // If every rank has all gradients, they count only once.
    gradNorm: Math.sqrt(group.stage === 0 ? all[0][2] : sum(2)),
    unfinite: all.flatMap((values) => values.slice(3).filter((id) => id >= 0)),
  }
}

function sequenceOf(row: number, cuSeqlens: Int32Array): number {
  return cuSeqlens.findIndex((end) => end > row) - 1
}

/**
 * Runs forward, backward, clipping and the update.
 * @param lr the learning rate of this step
 * @throws {NonFiniteError} for a non-finite loss or gradient, with the step and the instances, before the weights
 *   change
 */
export async function trainStep(
  pass: TrainPass,
  optimizer: AdamW,
  instances: readonly Instance[],
  options: StepOptions & { lr: number; maxGradNorm: number; step: number },
): Promise<BatchLoss & { gradNorm: number }> {
  const { group } = pass.parameters
  pass.zeroGradients()
  const outcome = await runBatch(group, instances, options, (batch, isLast) => pass.forwardBackward(batch, isLast))
  const squares = await optimizer.squaredNorm(pass.gradients)
  const { loss, correct, gradNorm, unfinite } = await addUp(group, outcome, squares)
  if (unfinite.length > 0 || !Number.isFinite(gradNorm)) {
    const what = unfinite.length > 0 ? `the loss of instance ${unfinite.join(', ')}` : 'the gradient'
    const all = instances.map(({ id }) => id).join(', ')
    throw new NonFiniteError(
      `${what} is not finite at step ${options.step} (instances of the batch: ${all}); the weights are unchanged since the previous step. ` +
        'Check these rows, or lower the learning rate',
    )
  }
  await optimizer.step(pass.gradients, options.lr, clipScale(gradNorm, options.maxGradNorm))
  return { ...batchLoss(instances, loss, correct), gradNorm }
}

function batchLoss(instances: readonly Instance[], loss: number, correct: number): BatchLoss {
  const { labels } = batchTotals(instances)
  const tokens = instances.reduce((sum, { inputIds }) => sum + inputIds.length, 0)
  return { loss, accuracy: correct / labels, tokens, labelTokens: labels }
}

/** The loss over a validation set, reduced as the recipe says, and its token accuracy. */
export async function evaluate(
  pass: TrainPass,
  instances: readonly Instance[],
  options: StepOptions,
): Promise<{ loss: number; accuracy: number }> {
  const { group } = pass.parameters
  const outcome = await runBatch(group, instances, options, (batch) => pass.evaluate(batch))
  const { loss, correct } = await addUp(group, outcome)
  return batchLoss(instances, loss, correct)
}

/** The instances' lengths and labels, to count operations. */
export function batchShape(instances: readonly Instance[]): { lengths: number[]; labelTokens: number } {
  return {
    lengths: instances.map(({ inputIds }) => inputIds.length),
    labelTokens: instances.reduce((sum, instance) => sum + countLabels(instance), 0),
  }
}
