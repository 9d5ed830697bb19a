/**
 * The ops, with named arguments. Generated from core/ops.h, their contract, by scripts/generate-ops.mjs: do not edit.
 *
 * Dtypes and shapes are checked when an op is called, which throws a `TypeError` for an argument of the wrong kind or
 * dtype or a disposed tensor, and a `RangeError` for a wrong shape. Each op enqueues its work on a stream and returns at
 * once. Wrong data, such as an id outside the vocabulary, rejects the stream's next wait.
 *
 * Shapes are row-major. T is the number of tokens, C the hidden size, H and K the query and key/value heads, D the head
 * size, F the intermediate size, V the vocabulary, B the sequences being decoded, P the positions of a table or a cache. A
 * is float32 or bfloat16, the same for every A of a call, and G likewise, chosen independently of A.
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
  /** Any dtype and shape, overwritten. */
  x: Tensor
  /** Rounded to x's dtype. */
  value: number
}

/** x = value, everywhere. */
export const fill: Op<FillArgs> = op('fill')

/** Arguments of `cast`. */
export interface CastArgs {
  /** Any dtype and shape, overwritten. */
  dst: Tensor
  /** Any dtype and shape. */
  src: Tensor
}

/** dst = src, converted to dst's dtype (round to nearest even). Both have the same number of elements. */
export const cast: Op<CastArgs> = op('cast')

/** Arguments of `embeddingForward`. */
export interface EmbeddingForwardArgs {
  /** A[T, C], overwritten. */
  out: Tensor
  /** int32[T]: rows of w. */
  ids: Tensor
  /** A[V, C] */
  w: Tensor
}

/** out[t] = w[ids[t]]. Also used to gather rows of any matrix. An id outside [0, V) is an error. */
export const embeddingForward: Op<EmbeddingForwardArgs> = op('embedding_forward')

/** Arguments of `embeddingBackward`. */
export interface EmbeddingBackwardArgs {
  /** G[V, C], updated. */
  dw: Tensor
  /** A[T, C] */
  dout: Tensor
  /** int32[T] */
  ids: Tensor
}

/** dw[ids[t]] += dout[t], in the order of t. Also used to scatter rows. */
export const embeddingBackward: Op<EmbeddingBackwardArgs> = op('embedding_backward')

/** Arguments of `rmsNormForward`. */
export interface RmsNormForwardArgs {
  /** A[T, C], overwritten. */
  y: Tensor
  /** float32[T], overwritten: for the backward pass. */
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
export interface AddRmsNormForwardArgs {
  /** A[T, C], overwritten. */
  y: Tensor
  /** float32[T], overwritten: for the backward pass. */
  rstd: Tensor
  /** A[T, C], overwritten: may be x. */
  sum: Tensor
  /** A[T, C] */
  x: Tensor
  /** A[T, C] */
  delta: Tensor
  /** A[C] */
  w: Tensor
  /** Added to the mean of the squares. */
  eps: number
}

/** sum = x + delta, rounded to its dtype; y and rstd as rmsNormForward of sum. sum may be x itself. */
export const addRmsNormForward: Op<AddRmsNormForwardArgs> = op('add_rmsnorm_forward')

/** Arguments of `rmsNormBackward`. */
export interface RmsNormBackwardArgs {
  /** A[T, C], updated. */
  dx: Tensor
  /** G[C], updated. */
  dw: Tensor
  /** A[T, C] */
  dy: Tensor
  /** A[T, C]: as in the forward pass. */
  x: Tensor
  /** A[C] */
  w: Tensor
  /** float32[T]: of the forward pass. */
  rstd: Tensor
}

/** With g = dy · w and x̂ = x · rstd: dx += rstd · (g − x̂ · mean(g · x̂)); dw += Σ_t dy · x̂. */
export const rmsNormBackward: Op<RmsNormBackwardArgs> = op('rmsnorm_backward')

/** Arguments of `matmul`. */
export interface MatMulArgs {
  /** False by default. */
  transposeA?: boolean
  /** False by default. */
  transposeB?: boolean
  /** G[m, n], overwritten: read as well unless beta is 0. */
  c: Tensor
  /** A[m, k], or A[k, m] with `transposeA`. */
  a: Tensor
  /** A[k, n], or A[n, k] with `transposeB`. */
  b: Tensor
  /** 1 by default. */
  alpha?: number
  /** 0 overwrites c, 1 adds to it. 0 by default. */
  beta?: number
}

/**
 * c = alpha · op(a) · op(b) + beta · c, float32 accumulation. op transposes when its flag is set: a is [m, k], or [k,
 * m] transposed; b is [k, n], or [n, k] transposed.
 */
export const matmul: Op<MatMulArgs> = op('matmul')

/** Arguments of `ropeForward`. */
export interface RopeForwardArgs {
  /** H */
  numHeads: number
  /** K */
  numKvHeads: number
  /** float32[P, R]: the cosine of every position and frequency. */
  cos: Tensor
  /** float32[P, R] */
  sin: Tensor
  /** A[T, H+2K, 2R], updated: each token's query heads, then its key and its value heads. */
  qkv: Tensor
  /** int32[T]: rows of cos and sin. */
  positions: Tensor
}

/**
 * Rotates the query and key heads in place by the angle of each token's position; the value heads stay. Pairs are (i,
 * i + D/2), as in Hugging Face's rotate_half: x1' = x1·cos − x2·sin, x2' = x2·cos + x1·sin (Su et al.,
 * arXiv:2104.09864). A position outside the table is an error.
 */
export const ropeForward: Op<RopeForwardArgs> = op('rope_forward')

/** Arguments of `ropeBackward`. */
export type RopeBackwardArgs = RopeForwardArgs

/** The inverse rotation, applied to the gradient of the rotated heads in place. */
export const ropeBackward: Op<RopeBackwardArgs> = op('rope_backward')

/** Arguments of `attentionForward`. */
export interface AttentionForwardArgs {
  /** H */
  numHeads: number
  /** K: query head h uses key/value head ⌊h / (H/K)⌋. */
  numKvHeads: number
  /** A[T, H+2K, D]: each token's query heads, then its key and its value heads. */
  qkv: Tensor
  /** A[T, H, D], overwritten. */
  out: Tensor
  /** float32[H, T], overwritten: log-sum-exp of the scores, for the backward pass. */
  lse: Tensor
  /** int32[N]: the first token of each sequence, and T at the end. */
  cuSeqlens: Tensor
  /** Multiplies the scores; usually 1/√D. */
  scale: number
}

/**
 * Causal attention over packed sequences: sequence s is the tokens cuSeqlens[s] … cuSeqlens[s+1]−1 (0 first, T last,
 * rising). Query head h uses key/value head h / (H/K).
 *   out = softmax(scale · q kᵀ) v;   lse[h, t] = log Σ exp(scale · q kᵀ)
 * Scores never exist as a whole (Dao et al., arXiv:2205.14135).
 */
export const attentionForward: Op<AttentionForwardArgs> = op('attention_forward')

/** Arguments of `attentionBackward`. */
export interface AttentionBackwardArgs {
  /** H */
  numHeads: number
  /** K: query head h uses key/value head ⌊h / (H/K)⌋. */
  numKvHeads: number
  /** A[T, H+2K, D], overwritten. */
  dqkv: Tensor
  /** float32[H, T], overwritten: rowsum(dout · out). */
  delta: Tensor
  /** A[T, H, D] */
  dout: Tensor
  /** A[T, H, D]: of the forward pass. */
  out: Tensor
  /** float32[H, T]: of the forward pass. */
  lse: Tensor
  /** A[T, H+2K, D]: each token's query heads, then its key and its value heads. */
  qkv: Tensor
  /** int32[N]: the first token of each sequence, and T at the end. */
  cuSeqlens: Tensor
  /** Multiplies the scores; usually 1/√D. */
  scale: number
}

/**
 * Recomputes P = exp(scale · q kᵀ − lse), then with delta = rowsum(dout · out), which it writes:
 *   dv = Pᵀ dout;  dS = P · (dout vᵀ − delta);  dq = scale · dS k;  dk = scale · dSᵀ q       (dqkv is overwritten).
 */
export const attentionBackward: Op<AttentionBackwardArgs> = op('attention_backward')

/** Arguments of `kvCacheWrite`. */
export interface KvCacheWriteArgs {
  /** H */
  numHeads: number
  /** K */
  numKvHeads: number
  /** A[B, P, K, D], overwritten: only the rows of the tokens. */
  kCache: Tensor
  /** A[B, P, K, D], overwritten: only the rows of the tokens. */
  vCache: Tensor
  /** A[T, H+2K, D] */
  qkv: Tensor
  /** int32[T]: from 0 to B − 1; a token with a negative one is skipped. */
  sequences: Tensor
  /** int32[T]: each token's position, from 0 to P − 1. */
  positions: Tensor
}

/**
 * kCache[sequences[t], positions[t]] = the key heads of token t, and the values likewise. A token whose sequence is
 * negative is skipped (padding); a position outside the cache is an error.
 */
export const kvCacheWrite: Op<KvCacheWriteArgs> = op('kv_cache_write')

/** Arguments of `attentionDecode`. */
export interface AttentionDecodeArgs {
  /** H */
  numHeads: number
  /** K */
  numKvHeads: number
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
  /** Multiplies the scores; usually 1/√D. */
  scale: number
}

/**
 * One new token of each sequence: its query heads attend to the cache's positions 0 … positions[b], its own included,
 * which kvCacheWrite has stored before.
 */
export const attentionDecode: Op<AttentionDecodeArgs> = op('attention_decode')

/** Arguments of `swigluForward`. */
export interface SwigluForwardArgs {
  /** A[T, F], overwritten. */
  h: Tensor
  /** A[T, 2F]: a row is F gates, then F ups. */
  gateUp: Tensor
}

/** h = silu(gate) · up, where each row of gateUp is F gates and then F ups (Shazeer 2020, arXiv:2002.05202). */
export const swigluForward: Op<SwigluForwardArgs> = op('swiglu_forward')

/** Arguments of `swigluBackward`. */
export interface SwigluBackwardArgs {
  /** A[T, F] */
  dh: Tensor
  /** A[T, 2F], updated: replaced by its gradient. */
  gateUp: Tensor
}

/** Replaces gateUp by its gradient. */
export const swigluBackward: Op<SwigluBackwardArgs> = op('swiglu_backward')

/** Arguments of `crossEntropy`. */
export interface CrossEntropyArgs {
  /** A[T, V], updated: with writeGradient replaced by its gradient, else only read. */
  logits: Tensor
  /** float32[T], overwritten. */
  losses: Tensor
  /** int32[T], overwritten: 1 where the most likely token is the label. */
  correct: Tensor
  /** int32[T]: a negative one is ignored. */
  labels: Tensor
  /** float32[T]: factor of each token's loss in the gradient, such as 1/T for the mean. */
  weights: Tensor
  /** Whether logits are replaced by their gradient. */
  writeGradient: boolean
}

/**
 * losses[t] = logsumexp(logits[t]) − logits[t, labels[t]]; correct[t] = 1 where the first largest logit is the label.
 * With writeGradient, logits[t] becomes weights[t] · (softmax(logits[t]) − onehot(labels[t])). A negative label is
 * ignored: its loss, correct and gradient are 0, and its logits are not read. A label of V or more is an error.
 */
export const crossEntropy: Op<CrossEntropyArgs> = op('cross_entropy')

/** Arguments of `adamw`. */
export interface AdamWArgs {
  /** A[n], overwritten: master, rounded; left out where the model computes with master. */
  weights?: Tensor
  /** float32[n], updated. */
  master: Tensor
  /** float32[n], updated: first moment, 0 before the first step. */
  m: Tensor
  /** float32[n], updated: second moment, 0 before the first step. */
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
  /** Multiplies grad first, such as max_norm / norm to clip it. */
  gradScale: number
  /** Counts from 1. */
  step: number
}

/**
 * AdamW as torch.optim.AdamW computes it (Loshchilov & Hutter, arXiv:1711.05101), with g = gradScale · grad:
 *   master *= 1 − lr·weightDecay;  m = β1·m + (1−β1)·g;  v = β2·v + (1−β2)·g²
 *   master −= lr / (1−β1^step) · m / (√(v / (1−β2^step)) + eps);  weights = master, rounded to nearest even
 * weights is left out when the model computes with master (float32 training).
 */
export const adamw: Op<AdamWArgs> = op('adamw')

/** Arguments of `globalNorm`. */
export interface GlobalNormArgs {
  /** float32[1], overwritten. */
  out: Tensor
  /** A[n] */
  x: Tensor
}

/** out[0] = Σ x², summed in a fixed order. */
export const globalNorm: Op<GlobalNormArgs> = op('global_norm')

/** Arguments of `sample`. */
export interface SampleArgs {
  /** int32[B], overwritten: the new tokens. */
  ids: Tensor
  /** int32[B], updated: of the last token; one more afterwards. */
  positions: Tensor
  /** int32[B, P], updated: the tokens so far; the new one is added. */
  history: Tensor
  /** A[B, V] */
  logits: Tensor
  /** float32[B]: divides the logits; 0 takes the most likely token. */
  temperature: Tensor
  /** float32[B]: keeps the smallest set of most likely tokens that reaches this probability; 1 disables. */
  topP: Tensor
  /** int32[B]: keeps only the k most likely tokens; 0 disables. */
  topK: Tensor
  /** float32[B]: above 1 makes tokens of the history less likely; 1 disables. */
  repetitionPenalty: Tensor
  /** int32[B, 2]: 64 bits, the low word first. */
  seeds: Tensor
  /** int32[B]: distinguishes sequences that have one seed. */
  sequenceSeeds: Tensor
  /** float32[B, 2V], overwritten: working memory. */
  scratch: Tensor
}

/**
 * Chooses the next token of each sequence from its logits, in Transformers' order: the repetition penalty on every
 * token of history[b, 0 … positions[b]] (Keskar et al., arXiv:1909.05858), temperature, topK, topP, then a draw.
 * temperature 0 is greedy: the first largest logit, after the penalty. The random number is a counter-based function
 * (Philox 4x32-10, Salmon et al. 2011) of seeds[b], sequenceSeeds[b], and the position, so a seed gives the same text
 * on every run and in every batch. Then, so that a recorded graph can run on:
 *   positions[b] += 1;  ids[b] = token;  history[b, positions[b]] = token
 * A sequence whose position is P − 1 or negative is finished, and does not change.
 */
export const sample: Op<SampleArgs> = op('sample')

/** Arguments of `randomNormal`. */
export interface RandomNormalArgs {
  /** A[n], overwritten. */
  x: Tensor
  /** Standard deviation. */
  std: number
  /** An integer. */
  seed: number
  /** An integer that distinguishes the tensors drawn with one seed. */
  streamId: number
}

/** x[i] = std · (a draw from the normal distribution), a function of seed, streamId and i alone. */
export const randomNormal: Op<RandomNormalArgs> = op('random_normal')

/** @deprecated Use `RopeForwardArgs`. */
export type RopeArgs = RopeForwardArgs

/** @deprecated Use `AttentionForwardArgs`. */
export type AttentionArgs = AttentionForwardArgs
