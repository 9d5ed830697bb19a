/** One optimizer step over a global batch of instances: what trains, without what a run has around it. */
import { countLabels, type Instance } from '../data/instances.js'
import { batchTotals, type LossReduction, packSequences, spreadBatch } from '../data/packing.js'
import { NonFiniteError } from '../errors.js'
import type { BatchResult } from '../model/forward-pass.js'
import type { TrainPass } from '../model/train-pass.js'
import type { RankGroup } from '../parallel/group.js'
import { type AdamW, clipScale } from './optimizer.js'

/** Batches come in multiples of this many tokens, so that matrix products come in few shapes. */
const tokenStep = 64

export interface StepOptions {
  lossReduction: LossReduction
  /** Tokens of a micro-batch; a multiple of 64 loses nothing to padding. */
  maxTokens: number
}

export interface BatchLoss {
  loss: number
  /** Share of the labelled tokens whose most likely prediction is right. */
  accuracy: number
  tokens: number
  labelTokens: number
}

/** The most tokens that `packSequences` makes of micro-batches of `maxTokens`. */
export function paddedTokens(maxTokens: number): number {
  return Math.ceil(maxTokens / tokenStep) * tokenStep
}

/** What this rank's part of a batch came to. */
interface Outcome {
  loss: number
  correct: number
  /** Instances whose loss is not finite. */
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

/** How many of a rank's instances an error names. */
const maxNamed = 8

/**
 * Adds up what the ranks have found; all of them get the same.
 * @param squares of the gradients that a rank owns
 */
async function addUp(group: RankGroup, { loss, correct, unfinite }: Outcome, squares = 0) {
  const named = Array.from({ length: maxNamed }, (_, i) => unfinite[i] ?? -1)
  const all = await group.gatherNumbers([loss, correct, squares, ...named])
  const sum = (i: number) => all.reduce((total, values) => total + values[i], 0)
  return {
    loss: sum(0),
    correct: sum(1),
    // Where every rank has all gradients, they are not to be counted more than once.
    gradNorm: Math.sqrt(group.stage === 0 ? all[0][2] : sum(2)),
    unfinite: all.flatMap((values) => values.slice(3).filter((id) => id >= 0)),
  }
}

function sequenceOf(row: number, cuSeqlens: Int32Array): number {
  return cuSeqlens.findIndex((end) => end > row) - 1
}

/**
 * Forward, backward, clipping and the update.
 * @param lr the learning rate of this step
 * @throws {NonFiniteError} with the step and the instances, before the weights are touched
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

/** The loss over a validation set, as the recipe reduces it, and its token accuracy. */
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

/** The instances' lengths and labels, for the count of operations. */
export function batchShape(instances: readonly Instance[]): { lengths: number[]; labelTokens: number } {
  return {
    lengths: instances.map(({ inputIds }) => inputIds.length),
    labelTokens: instances.reduce((sum, instance) => sum + countLabels(instance), 0),
  }
}
