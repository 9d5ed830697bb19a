/**
 * The ops, with named arguments. core/ops.h is their contract: formulas, shapes and dtypes, which are checked when an op
 * is called: a `TypeError` for an argument of the wrong kind or dtype or a disposed tensor, a `RangeError` for a wrong
 * shape. Each enqueues its work on a stream and returns at once. What is wrong with the data, such as an id outside the
 * vocabulary, rejects the stream's next wait.
 *
 * Shapes are row-major. T is the number of tokens, C the hidden size, H and K the query and key/value heads, D the head
 * size, F the intermediate size, V the vocabulary, B the sequences that are decoded, P the positions of a table or a
 * cache. A is float32 or bfloat16, the same for every A of a call, and G likewise, chosen apart from A.
 *
 * @module ops
 */
import type { Stream } from './device.js'
import type { Tensor } from './tensor.js'

/** Enqueues an op on a stream and returns at once. */
export type Op<Args> = (stream: Stream, args: Args) => void

const op =
  <Args extends object>(name: string): Op<Args> =>
  (stream, args) => {
    if (typeof stream?.enqueue !== 'function') throw new TypeError(`${name}: stream must be a stream`)
    stream.enqueue(name, args)
  }

/** Arguments of `fill`. */
export interface FillArgs {
  /** Any dtype and shape. */
  x: Tensor
  /** Rounded to the tensor's dtype. */
  value: number
}

/** x = value, everywhere. */
export const fill: Op<FillArgs> = op('fill')

/** Arguments of `cast`. Both tensors have the same number of elements. */
export interface CastArgs {
  /** Any dtype and shape; overwritten. */
  dst: Tensor
  /** Any dtype and shape. */
  src: Tensor
}

/** dst = src, converted to dst's dtype; rounded to nearest, ties to even. */
export const cast: Op<CastArgs> = op('cast')

/** Arguments of `embeddingForward`. */
export interface EmbeddingForwardArgs {
  /** A[T, C], overwritten. */
  out: Tensor
  /** int32[T], rows of w; one outside [0, V) rejects the stream's next wait. */
  ids: Tensor
  /** A[V, C] */
  w: Tensor
}

/** out[t] = w[ids[t]]. It also gathers rows of any other matrix. */
export const embeddingForward: Op<EmbeddingForwardArgs> = op('embedding_forward')

/** Arguments of `embeddingBackward`. */
export interface EmbeddingBackwardArgs {
  /** G[V, C], added to. */
  dw: Tensor
  /** A[T, C] */
  dout: Tensor
  /** int32[T] */
  ids: Tensor
}

/** dw[ids[t]] += dout[t], in the order of t. */
export const embeddingBackward: Op<EmbeddingBackwardArgs> = op('embedding_backward')

/** Arguments of `rmsNormForward`. */
export interface RmsNormForwardArgs {
  /** A[T, C], overwritten. */
  y: Tensor
  /** float32[T], overwritten: what the backward pass needs. */
  rstd: Tensor
  /** A[T, C] */
  x: Tensor
  /** A[C] */
  w: Tensor
  /** Added to the mean of the squares. */
  eps: number
}

/** rstd[t] = rsqrt(mean(x[t]²) + eps); y[t] = x[t] · rstd[t] · w (Zhang & Sennrich 2019, arXiv:1910.07467). */
export const rmsNormForward: Op<RmsNormForwardArgs> = op('rmsnorm_forward')

/** Arguments of `addRmsNormForward`. */
export interface AddRmsNormForwardArgs extends RmsNormForwardArgs {
  /** A[T, C], overwritten; may be x itself. */
  sum: Tensor
  /** A[T, C] */
  delta: Tensor
}

/** sum = x + delta, rounded to its dtype; y and rstd are `rmsNormForward` of sum. */
export const addRmsNormForward: Op<AddRmsNormForwardArgs> = op('add_rmsnorm_forward')

/** Arguments of `rmsNormBackward`. */
export interface RmsNormBackwardArgs {
  /** A[T, C], added to. */
  dx: Tensor
  /** G[C], added to. */
  dw: Tensor
  /** A[T, C] */
  dy: Tensor
  /** A[T, C], as in the forward pass. */
  x: Tensor
  /** A[C] */
  w: Tensor
  /** float32[T], of the forward pass. */
  rstd: Tensor
}

/** With g = dy · w and x̂ = x · rstd: dx += rstd · (g − x̂ · mean(g · x̂)); dw += Σ_t dy · x̂. */
export const rmsNormBackward: Op<RmsNormBackwardArgs> = op('rmsnorm_backward')

/** Arguments of `matmul`. */
export interface MatMulArgs {
  /** G[m, n] */
  c: Tensor
  /** A[m, k], or A[k, m] with `transposeA`. */
  a: Tensor
  /** A[k, n], or A[n, k] with `transposeB`. */
  b: Tensor
  /** False when left out. */
  transposeA?: boolean
  /** False when left out. */
  transposeB?: boolean
  /** 1 when left out. */
  alpha?: number
  /** 0, which overwrites c, when left out; 1 adds to it. */
  beta?: number
}

const matmulOp: Op<Required<MatMulArgs>> = op('matmul')

/** c = alpha · op(a) · op(b) + beta · c, where op transposes when its flag is set; sums are in float32. */
export const matmul: Op<MatMulArgs> = (stream, args) =>
  matmulOp(stream, { transposeA: false, transposeB: false, alpha: 1, beta: 0, ...args })

/** Arguments of `ropeForward` and `ropeBackward`. */
export interface RopeArgs {
  /** A[T, H+2K, D], changed in place: each token's query heads, then its key and its value heads. */
  qkv: Tensor
  /** float32[P, D/2]: the cosine of every position and frequency. */
  cos: Tensor
  /** float32[P, D/2] */
  sin: Tensor
  /** int32[T], rows of cos and sin; one outside of them rejects the stream's next wait. */
  positions: Tensor
  /** H */
  numHeads: number
  /** K */
  numKvHeads: number
}

/**
 * Rotates the query and key heads by the angles of their positions; pairs are (i, i + D/2), as in Hugging Face's
 * rotate_half (Su et al. 2021, arXiv:2104.09864).
 */
export const ropeForward: Op<RopeArgs> = op('rope_forward')

/** The inverse rotation, of the gradient of the rotated heads. */
export const ropeBackward: Op<RopeArgs> = op('rope_backward')

/** Arguments of `attentionForward`. D is a multiple of 4, at most 128; H is a multiple of K. */
export interface AttentionArgs {
  /** A[T, H+2K, D]: each token's query heads, then its key and its value heads. */
  qkv: Tensor
  /** A[T, H, D]; written by the forward pass. */
  out: Tensor
  /** float32[H, T], the log-sum-exp of the scores; written by the forward pass. */
  lse: Tensor
  /** int32[N+1]: sequence s is the tokens cuSeqlens[s] to cuSeqlens[s+1] − 1; it begins with 0 and ends with T. */
  cuSeqlens: Tensor
  /** H */
  numHeads: number
  /** K; query head h uses key/value head ⌊h / (H/K)⌋. */
  numKvHeads: number
  /** What scores are multiplied by; 1/√D as a rule. */
  scale: number
}

/** out = softmax(scale · q kᵀ) v, causal, over packed sequences (Dao et al. 2022, arXiv:2205.14135). */
export const attentionForward: Op<AttentionArgs> = op('attention_forward')

/** Arguments of `attentionBackward`: those of the forward pass, and the gradients. */
export interface AttentionBackwardArgs extends AttentionArgs {
  /** A[T, H+2K, D], overwritten. */
  dqkv: Tensor
  /** float32[H, T], working memory. */
  delta: Tensor
  /** A[T, H, D] */
  dout: Tensor
}

/** dqkv from dout; the probabilities are computed again from lse. */
export const attentionBackward: Op<AttentionBackwardArgs> = op('attention_backward')

/** Arguments of `kvCacheWrite`. */
export interface KvCacheWriteArgs {
  /** A[B, P, K, D] */
  kCache: Tensor
  /** A[B, P, K, D] */
  vCache: Tensor
  /** A[T, H+2K, D] */
  qkv: Tensor
  /** int32[T]: each token's sequence, 0 to B − 1; a negative one is passed over. */
  sequences: Tensor
  /** int32[T]: each token's position, 0 to P − 1. */
  positions: Tensor
  /** H */
  numHeads: number
  /** K */
  numKvHeads: number
}

/** Stores the key and value heads of qkv at [sequences[t], positions[t]] of the caches. */
export const kvCacheWrite: Op<KvCacheWriteArgs> = op('kv_cache_write')

/** Arguments of `attentionDecode`. */
export interface AttentionDecodeArgs {
  /** A[B, H, D], overwritten. */
  out: Tensor
  /** A[B, H+2K, D] */
  qkv: Tensor
  /** A[B, P, K, D] */
  kCache: Tensor
  /** A[B, P, K, D] */
  vCache: Tensor
  /** int32[B]: the position of each sequence's new token. */
  positions: Tensor
  /** H */
  numHeads: number
  /** K */
  numKvHeads: number
  /** What scores are multiplied by; 1/√D as a rule. */
  scale: number
}

/** One new token a sequence against positions 0 to positions[b] of its cache, where `kvCacheWrite` has put it before. */
export const attentionDecode: Op<AttentionDecodeArgs> = op('attention_decode')

/** Arguments of `swigluForward`. */
export interface SwigluForwardArgs {
  /** A[T, F], overwritten. */
  h: Tensor
  /** A[T, 2F]: a row is F gates and then F ups. */
  gateUp: Tensor
}

/** h = silu(gate) · up (Shazeer 2020, arXiv:2002.05202). */
export const swigluForward: Op<SwigluForwardArgs> = op('swiglu_forward')

/** Arguments of `swigluBackward`. */
export interface SwigluBackwardArgs {
  /** A[T, 2F], replaced by its gradient. */
  gateUp: Tensor
  /** A[T, F] */
  dh: Tensor
}

/** Replaces gateUp by its gradient. */
export const swigluBackward: Op<SwigluBackwardArgs> = op('swiglu_backward')

/** Arguments of `crossEntropy`. */
export interface CrossEntropyArgs {
  /** A[T, V]; with `writeGradient` replaced by its gradient. */
  logits: Tensor
  /** float32[T], overwritten. */
  losses: Tensor
  /** int32[T], overwritten: 1 where the most likely token is the label. */
  correct: Tensor
  /** int32[T]; a negative one is ignored: its loss, correct and gradient are 0. */
  labels: Tensor
  /** float32[T]: what each token's loss counts in the gradient, such as 1/T for the mean. */
  weights: Tensor
  /** Whether logits become weights[t] · (softmax(logits[t]) − onehot(labels[t])). */
  writeGradient: boolean
}

/** losses[t] = logsumexp(logits[t]) − logits[t, labels[t]]. */
export const crossEntropy: Op<CrossEntropyArgs> = op('cross_entropy')

/** Arguments of `adamw`. */
export interface AdamWArgs {
  /** A[n], overwritten with the rounded masters; left out where the model computes with the masters themselves. */
  weights?: Tensor
  /** float32[n], updated. */
  master: Tensor
  /** float32[n], updated; 0 before the first step. */
  m: Tensor
  /** float32[n], updated; 0 before the first step. */
  v: Tensor
  /** G[n] */
  grad: Tensor
  /** Learning rate of this step. */
  lr: number
  /** Decay of the first moment. */
  beta1: number
  /** Decay of the second moment. */
  beta2: number
  /** Added to the root of the second moment. */
  eps: number
  /** Decoupled: master is multiplied by 1 − lr · weightDecay. */
  weightDecay: number
  /** What grad is multiplied by first, such as max_norm / norm to clip it. */
  gradScale: number
  /** Counts from 1. */
  step: number
}

/** One step of AdamW over flat parameters, as torch.optim.AdamW takes it (Loshchilov & Hutter, arXiv:1711.05101). */
export const adamw: Op<AdamWArgs> = op('adamw')

/** Arguments of `globalNorm`. */
export interface GlobalNormArgs {
  /** float32[1], overwritten. */
  out: Tensor
  /** A[n] */
  x: Tensor
}

/** out[0] = Σ x², summed in a fixed order; the norm is its root. */
export const globalNorm: Op<GlobalNormArgs> = op('global_norm')

/** Arguments of `sample`. */
export interface SampleArgs {
  /** int32[B], overwritten with the new tokens. */
  ids: Tensor
  /** int32[B], one more afterwards; a sequence at P − 1, or at a negative position, is left alone. */
  positions: Tensor
  /** int32[B, P]: the tokens so far; the new one is added at its position. */
  history: Tensor
  /** A[B, V] */
  logits: Tensor
  /** int32[B]: tells the sequences of a batch apart. */
  sequenceSeeds: Tensor
  /** float32[B, 2V], working memory. */
  scratch: Tensor
  /** Divides the logits; 0 takes the most likely token. */
  temperature: number
  /** The smallest set of likeliest tokens that reaches this probability; 1 is off. */
  topP: number
  /** Above 1 makes the tokens of the history less likely; 1 is off (Keskar et al. 2019, arXiv:1909.05858). */
  repetitionPenalty: number
  /** The so many likeliest tokens; 0 is off. */
  topK: number
  /** A whole number; with sequenceSeeds and the position it gives the draw (Philox, Salmon et al. 2011). */
  seed: number
}

/** Chooses the next token of each sequence, and moves positions, ids and history on, so that a graph can run on. */
export const sample: Op<SampleArgs> = op('sample')

/** Arguments of `randomNormal`. */
export interface RandomNormalArgs {
  /** A[n], overwritten. */
  x: Tensor
  /** Standard deviation. */
  std: number
  /** A whole number. */
  seed: number
  /** A whole number that tells the tensors of a seed apart. */
  streamId: number
}

/** x[i] = std · (a draw from the normal distribution), a function of seed, streamId and i alone. */
export const randomNormal: Op<RandomNormalArgs> = op('random_normal')
