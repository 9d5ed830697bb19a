import { DataError } from '../errors.js'
import { Philox } from './random.js'

/** Random number streams; the split and the order of an epoch use different ones. */
const STREAM_ORDER = 0
const STREAM_SPLIT = 1

/**
 * The order of `count` instances in an epoch: a Fisher–Yates shuffle by Philox. It depends only on the seed and the
 * epoch, so every rank, and a resumed run, computes the same one.
 */
export function epochOrder(count: number, seed: number, epoch: number): Uint32Array {
  return shuffled(count, new Philox(seed, STREAM_ORDER, epoch))
}

function shuffled(count: number, random: Philox): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, index) => index)
  for (let last = count - 1; last > 0; last--) {
    const other = random.below(last + 1)
    const swapped = order[last]
    order[last] = order[other]
    order[other] = swapped
  }
  return order
}

export interface BatchPlan {
  /** Instances in the training set. */
  count: number
  /** Instances in a global batch, regardless of the number of ranks. */
  batchSize: number
  /** Passes over the training set; may be fractional. */
  epochs: number
  seed: number
}

/** A global batch: the instances of one optimizer step. */
export interface Batch {
  /** The optimizer step, from zero. */
  step: number
  /** Epochs completed after this batch, as a fraction. */
  epoch: number
  /** `batchSize` indices of instances. */
  indices: Uint32Array
}

/** `⌊epochs · count / batchSize⌋`, the optimizer steps of a run and the length of its learning-rate schedule. */
export function totalSteps({ count, batchSize, epochs }: BatchPlan): number {
  return Math.floor((epochs * count) / batchSize)
}

/**
 * The batches of a run from `step` on, at the cost of one shuffle wherever it starts.
 *
 * The shuffled epochs follow each other without a gap, as with gradient accumulation in OpenAlpaca: a batch may contain
 * the end of one epoch and the start of the next. So there are exactly `totalSteps` batches, the schedule ends with the
 * data, and only an incomplete batch at the very end is dropped.
 */
export function* batchesFrom(step: number, plan: BatchPlan): Generator<Batch> {
  const { count, batchSize, seed } = plan
  for (const [name, value] of Object.entries({ count, batchSize })) {
    if (!Number.isInteger(value) || value < 1) throw new RangeError(`${name} must be a positive integer, got ${value}`)
  }
  const total = totalSteps(plan)
  let epoch = Math.floor((step * batchSize) / count)
  let order = epochOrder(count, seed, epoch)
  for (; step < total; step++) {
    const indices = new Uint32Array(batchSize)
    for (let i = 0; i < batchSize; i++) {
      const position = step * batchSize + i
      if (Math.floor(position / count) !== epoch) order = epochOrder(count, seed, ++epoch)
      indices[i] = order[position % count]
    }
    yield { step, epoch: ((step + 1) * batchSize) / count, indices }
  }
}

export interface Split {
  /** Indices in ascending order. */
  train: Uint32Array
  validation: Uint32Array
}

/**
 * Draws a validation set, the same for the same seed and count.
 * @param validationSize a number of instances, or below 1 a fraction of them (rounded, at least one); 0 for none
 * @throws {DataError} for a split that leaves nothing to train on
 */
export function splitValidation(count: number, validationSize: number, seed: number): Split {
  if (!(validationSize >= 0) || (validationSize >= 1 && !Number.isInteger(validationSize))) {
    throw new RangeError(`validation_size must be a number of instances or a fraction below 1, got ${validationSize}`)
  }
  const size =
    validationSize === 0 || validationSize >= 1 ? validationSize : Math.max(1, Math.round(validationSize * count))
  if (size >= count) {
    throw new DataError(
      `validation_size ${validationSize} leaves nothing to train on: the data set has ${count} instances`,
    )
  }
  const order = shuffled(count, new Philox(seed, STREAM_SPLIT))
  return { validation: order.slice(0, size).sort(), train: order.slice(size).sort() }
}
