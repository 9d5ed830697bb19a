/**
 * The ops, with named arguments. core/ops.h is their contract: formulas, shapes and dtypes, which are checked when an op
 * is called. Each enqueues its work on a stream and returns at once.
 *
 * @throws {TypeError} for an argument of the wrong kind or dtype, or a disposed tensor
 * @throws {RangeError} for a wrong shape
 */
import type { Stream } from './device.js'
import type { Tensor } from './tensor.js'

type Op<Args> = (stream: Stream, args: Args) => void

const op =
  <Args extends object>(name: string): Op<Args> =>
  (stream, args) =>
    stream.enqueue(name, args)

/** x = value. */
export const fill = op<{ x: Tensor; value: number }>('fill')

/** dst = src in dst's dtype. */
export const cast = op<{ dst: Tensor; src: Tensor }>('cast')

/** out[T, C] = w[V, C] at ids[T]. */
export const embeddingForward = op<{ out: Tensor; ids: Tensor; w: Tensor }>('embedding_forward')

/** dw[V, C] += dout[T, C] at ids[T]. */
export const embeddingBackward = op<{ dw: Tensor; dout: Tensor; ids: Tensor }>('embedding_backward')

/** y[T, C] = x · rstd[T] · w[C]. */
export const rmsNormForward = op<{ y: Tensor; rstd: Tensor; x: Tensor; w: Tensor; eps: number }>('rmsnorm_forward')

/** sum[T, C] = x + delta; y and rstd are its norm. */
export const addRmsNormForward = op<{
  y: Tensor
  rstd: Tensor
  sum: Tensor
  x: Tensor
  delta: Tensor
  w: Tensor
  eps: number
}>('add_rmsnorm_forward')

/** dx[T, C] += …; dw[C] += …. */
export const rmsNormBackward = op<{ dx: Tensor; dw: Tensor; dy: Tensor; x: Tensor; w: Tensor; rstd: Tensor }>(
  'rmsnorm_backward',
)

export interface MatMulArgs {
  c: Tensor
  a: Tensor
  b: Tensor
  transposeA?: boolean
  transposeB?: boolean
  alpha?: number
  beta?: number
}

const matmulOp = op<Required<MatMulArgs>>('matmul')

/** c[m, n] = alpha · op(a) · op(b) + beta · c. */
export const matmul: Op<MatMulArgs> = (stream, args) =>
  matmulOp(stream, { transposeA: false, transposeB: false, alpha: 1, beta: 0, ...args })

export interface RopeArgs {
  qkv: Tensor
  cos: Tensor
  sin: Tensor
  positions: Tensor
  numHeads: number
  numKvHeads: number
}

/** Rotates the query and key heads of qkv[T, H+2K, D] in place. */
export const ropeForward = op<RopeArgs>('rope_forward')

/** Rotates back, in place. */
export const ropeBackward = op<RopeArgs>('rope_backward')

export interface AttentionArgs {
  qkv: Tensor
  out: Tensor
  lse: Tensor
  cuSeqlens: Tensor
  numHeads: number
  numKvHeads: number
  scale: number
}

/** out[T, H, D], lse[H, T]: causal attention over packed sequences. */
export const attentionForward = op<AttentionArgs>('attention_forward')

/** dqkv[T, H+2K, D] from dout; delta[H, T] is working memory. */
export const attentionBackward = op<AttentionArgs & { dqkv: Tensor; delta: Tensor; dout: Tensor }>('attention_backward')

/** Stores the key and value heads of qkv in the caches [B, P, K, D]. */
export const kvCacheWrite = op<{
  kCache: Tensor
  vCache: Tensor
  qkv: Tensor
  sequences: Tensor
  positions: Tensor
  numHeads: number
  numKvHeads: number
}>('kv_cache_write')

/** out[B, H, D]: one new token a sequence against its cache. */
export const attentionDecode = op<{
  out: Tensor
  qkv: Tensor
  kCache: Tensor
  vCache: Tensor
  positions: Tensor
  numHeads: number
  numKvHeads: number
  scale: number
}>('attention_decode')

/** h[T, F] = silu(gate) · up, of gate_up[T, 2F]. */
export const swigluForward = op<{ h: Tensor; gateUp: Tensor }>('swiglu_forward')

/** gate_up becomes its gradient. */
export const swigluBackward = op<{ gateUp: Tensor; dh: Tensor }>('swiglu_backward')

/** losses[T], correct[T]; with writeGradient logits[T, V] becomes its gradient. */
export const crossEntropy = op<{
  logits: Tensor
  losses: Tensor
  correct: Tensor
  labels: Tensor
  weights: Tensor
  writeGradient: boolean
}>('cross_entropy')

/** One step of AdamW over flat parameters. */
export const adamW = op<{
  weights?: Tensor
  master: Tensor
  m: Tensor
  v: Tensor
  grad: Tensor
  lr: number
  beta1: number
  beta2: number
  eps: number
  weightDecay: number
  gradScale: number
  step: number
}>('adamw')

/** out[0] = Σ x². */
export const globalNorm = op<{ out: Tensor; x: Tensor }>('global_norm')

/** Chooses the next token of each sequence, and moves positions, ids and history on. */
export const sample = op<{
  ids: Tensor
  positions: Tensor
  history: Tensor
  logits: Tensor
  sequenceSeeds: Tensor
  scratch: Tensor
  temperature: number
  topP: number
  repetitionPenalty: number
  topK: number
  seed: number
}>('sample')

/** x[n] = normal draws of standard deviation std; streamId tells the tensors of a seed apart. */
export const randomNormal = op<{ x: Tensor; std: number; seed: number; streamId: number }>('random_normal')
