/** One optimizer step over a global batch of instances: what trains, without what a run has around it. */
import { countLabels, type Instance } from '../data/instances.js'
import { batchTotals, type LossReduction, packBatch, packSequences } from '../data/packing.js'
import { NonFiniteError } from '../errors.js'
import type { Backprop, BatchResult } from '../model/backprop.js'
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

/** Runs a global batch in micro-batches, each enqueued as soon as it is packed. */
async function runBatch(
  instances: readonly Instance[],
  { lossReduction, maxTokens }: StepOptions,
  run: (batch: ReturnType<typeof packSequences>) => Promise<BatchResult>,
): Promise<{ totals: BatchLoss; unfinite: number[] }> {
  const totals = batchTotals(instances)
  const packed = packBatch(
    instances.map(({ inputIds }) => inputIds.length),
    maxTokens,
  )
  const results = await Promise.all(
    packed.map(async (indices) => {
      const members = indices.map((index) => instances[index])
      const batch = packSequences(members, { lossReduction, totals, padToMultiple: tokenStep })
      return { members, cuSeqlens: batch.cuSeqlens, ...(await run(batch)) }
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
  const tokens = instances.reduce((sum, { inputIds }) => sum + inputIds.length, 0)
  return {
    totals: { loss, accuracy: correct / totals.labels, tokens, labelTokens: totals.labels },
    unfinite: [...unfinite],
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
  backprop: Backprop,
  optimizer: AdamW,
  instances: readonly Instance[],
  options: StepOptions & { lr: number; maxGradNorm: number; step: number },
): Promise<BatchLoss & { gradNorm: number }> {
  backprop.zeroGradients()
  const { totals, unfinite } = await runBatch(instances, options, (batch) => backprop.accumulate(batch))
  const gradNorm = await optimizer.gradientNorm(backprop.gradients)
  if (unfinite.length > 0 || !Number.isFinite(gradNorm)) {
    const what = unfinite.length > 0 ? `the loss of instance ${unfinite.join(', ')}` : 'the gradient'
    const all = instances.map(({ id }) => id).join(', ')
    throw new NonFiniteError(
      `${what} is not finite at step ${options.step} (instances of the batch: ${all}); the weights are as before it. ` +
        'Look at these rows, or lower the learning rate',
    )
  }
  optimizer.step(backprop.gradients, options.lr, clipScale(gradNorm, options.maxGradNorm))
  return { ...totals, gradNorm }
}

/** The loss over a validation set, as the recipe reduces it, and its token accuracy. */
export async function evaluate(
  backprop: Backprop,
  instances: readonly Instance[],
  options: StepOptions,
): Promise<{ loss: number; accuracy: number }> {
  const { totals } = await runBatch(instances, options, (batch) => backprop.evaluate(batch))
  return totals
}

/** The instances' lengths and labels, for the count of operations. */
export function batchShape(instances: readonly Instance[]): { lengths: number[]; labelTokens: number } {
  return {
    lengths: instances.map(({ inputIds }) => inputIds.length),
    labelTokens: instances.reduce((sum, instance) => sum + countLabels(instance), 0),
  }
}
