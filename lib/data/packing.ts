import { countLabels, type LabelledSequence } from './instances.js'

/** `instance`: the mean over each instance's labels, then over the instances. `token`: the mean over all labels. */
export type LossReduction = 'instance' | 'token'

/**
 * Concatenated sequences, the input of the model: T tokens, S sequences. The loss of the global batch is the sum of
 * `weights[t]` times the cross-entropy at t over all its micro-batches, however they are packed.
 */
export interface PackedBatch {
  /** T token ids. */
  inputIds: Int32Array
  /** T positions, from zero in each sequence. */
  positions: Int32Array
  /** S + 1 offsets: sequence s is the tokens from cuSeqlens[s] up to cuSeqlens[s + 1]. */
  cuSeqlens: Int32Array
  /** T labels, shifted: labels[t] is the token to predict at t, or −1 for none (prompts, a sequence's last token). */
  labels: Int32Array
  /** T weights, zero for tokens without a label. */
  weights: Float32Array
}

/** The totals of the global batch that the weights depend on, the same for each of its micro-batches. */
export interface BatchTotals {
  /** Instances with a label. */
  instances: number
  labels: number
}

export function batchTotals(sequences: readonly LabelledSequence[]): BatchTotals {
  const labels = sequences.map(countLabels)
  return {
    instances: labels.filter((count) => count > 0).length,
    labels: labels.reduce((sum, count) => sum + count, 0),
  }
}

/**
 * Divides sequences into micro-batches of at most `maxTokens` tokens by best fit decreasing, which stays within 11/9 of
 * the minimum (Johnson 1974): longest first, each into the fullest micro-batch with enough space.
 * @returns the indices of each micro-batch, ascending; the same for the same lengths
 * @throws {RangeError} for a sequence longer than `maxTokens`
 */
export function packBatch(lengths: ArrayLike<number>, maxTokens: number): number[][] {
  const longestFirst = Array.from({ length: lengths.length }, (_, index) => index)
  longestFirst.sort((a, b) => lengths[b] - lengths[a] || a - b)
  const bins: { indices: number[]; room: number }[] = []
  for (const index of longestFirst) {
    const length = lengths[index]
    if (!(length <= maxTokens)) {
      throw new RangeError(`sequence ${index} has ${length} tokens, more than the ${maxTokens} of a micro-batch`)
    }
    let best: (typeof bins)[number] | undefined
    for (const bin of bins) if (bin.room >= length && bin.room < (best?.room ?? Number.POSITIVE_INFINITY)) best = bin
    if (best === undefined) {
      best = { indices: [], room: maxTokens }
      bins.push(best)
    }
    best.indices.push(index)
    best.room -= length
  }
  return bins.map(({ indices }) => indices.sort((a, b) => a - b))
}

/**
 * Divides the sequences of a global batch among ranks by their tokens: every rank gets the same number of
 * micro-batches, the fewest possible, and about the same number of tokens. Longest first, each goes to the micro-batch
 * with the fewest tokens so far (Graham 1969). A single rank fills its micro-batches instead, as `packBatch` does.
 * @returns by rank the micro-batches, each the indices of its sequences, ascending; a micro-batch may be empty
 * @throws {RangeError} for a sequence longer than `maxTokens`
 */
export function spreadBatch(lengths: ArrayLike<number>, maxTokens: number, ranks: number): number[][][] {
  const fullest = packBatch(lengths, maxTokens)
  if (ranks === 1) return [fullest]
  const longestFirst = Array.from({ length: lengths.length }, (_, index) => index)
  longestFirst.sort((a, b) => lengths[b] - lengths[a] || a - b)
  for (let perRank = Math.ceil(fullest.length / ranks); ; perRank++) {
    const bins = Array.from({ length: perRank * ranks }, () => ({ indices: [] as number[], tokens: 0 }))
    for (const index of longestFirst) {
      const emptiest = bins.reduce((best, bin) => (bin.tokens < best.tokens ? bin : best))
      emptiest.indices.push(index)
      emptiest.tokens += lengths[index]
    }
    if (bins.some(({ tokens }) => tokens > maxTokens)) continue
    // Bins were opened in order of decreasing length, so consecutive ones are about equally full.
    return Array.from({ length: ranks }, (_, rank) =>
      Array.from({ length: perRank }, (_, i) => bins[i * ranks + rank].indices.sort((a, b) => a - b)),
    )
  }
}

export interface PackOptions {
  lossReduction: LossReduction
  /** The totals of the global batch that these sequences are part of. */
  totals: BatchTotals
  /** Pads T to a multiple of this with one more sequence, of id 0, without labels. @default 1 */
  padToMultiple?: number
}

/** Concatenates the sequences of one micro-batch. */
export function packSequences(sequences: readonly LabelledSequence[], options: PackOptions): PackedBatch {
  const { lossReduction, totals, padToMultiple = 1 } = options
  const tokens = sequences.reduce((sum, { inputIds }) => sum + inputIds.length, 0)
  // A rank without sequences computes on padding while the others process theirs.
  const size = Math.max(1, Math.ceil(tokens / padToMultiple)) * padToMultiple
  const ends = [0]
  const inputIds = new Int32Array(size)
  const positions = new Int32Array(size)
  const labels = new Int32Array(size).fill(-1)
  const weights = new Float32Array(size)
  const add = (length: number): number => {
    const start = ends[ends.length - 1]
    for (let t = 0; t < length; t++) positions[start + t] = t
    ends.push(start + length)
    return start
  }
  for (const sequence of sequences) {
    const start = add(sequence.inputIds.length)
    inputIds.set(sequence.inputIds, start)
    const weight = 1 / (lossReduction === 'token' ? totals.labels : countLabels(sequence) * totals.instances)
    for (let t = 1; t < sequence.labels.length; t++) {
      if (sequence.labels[t] < 0) continue
      labels[start + t - 1] = sequence.labels[t]
      weights[start + t - 1] = weight
    }
  }
  if (size > tokens) add(size - tokens)
  return { inputIds, positions, cuSeqlens: Int32Array.from(ends), labels, weights }
}
