/**
 * The transformer's blocks, forward and backward, as the ops that they consist of; written once for every device.
 * Shapes: T tokens of packed sequences, C hidden size, H/K query and key/value heads of size D, F intermediate size.
 */
import type { Stream } from '../device.js'
import * as ops from '../ops.js'
import type { UnitGradients, UnitWeights } from '../parallel/units.js'
import type { Tensor } from '../tensor.js'
import type { Activations, BlockActivations } from './activations.js'
import type { LlamaConfig } from './config.js'
import type { BlockTensors, ModelTensors } from './layout.js'

/** What the passes of a batch share. */
export interface Context {
  stream: Stream
  config: LlamaConfig
  weights: ModelTensors
  /** Brings them in place, a unit at a time: 0 the embedding, then the blocks, then the head. */
  units: UnitWeights
  /** RoPE's tables, [positions, D/2]. */
  cos: Tensor
  sin: Tensor
}

/** Computes a block's attention from its rotated queries, keys and values. */
export type Attend = (block: BlockActivations, index: number) => void

/** Rows by columns: [T, H, D] as the [T, H·D] of a matrix product. */
const flat = (tensor: Tensor) => tensor.view([tensor.shape[0], tensor.length / tensor.shape[0]])

/** y[T, N] = x[T, M] · w[N, M]ᵀ */
function linear(stream: Stream, y: Tensor, x: Tensor, w: Tensor): void {
  ops.matmul(stream, { c: y, a: x, b: w, transposeB: true })
}

/** dw[N, M] += dy[T, N]ᵀ · x[T, M];  dx[T, M] = dy · w */
export function linearBackward(stream: Stream, dx: Tensor, dw: Tensor, dy: Tensor, x: Tensor, w: Tensor): void {
  ops.matmul(stream, { c: dw, a: dy, b: x, transposeA: true, beta: 1 })
  ops.matmul(stream, { c: dx, a: dy, b: w })
}

export function ropeArgs({ config, cos, sin }: Context, activations: Activations, qkv: Tensor): ops.RopeArgs {
  const { numAttentionHeads: numHeads, numKeyValueHeads: numKvHeads } = config
  return { qkv, cos, sin, positions: activations.positions, numHeads, numKvHeads }
}

/** Causal attention over the packed sequences of `cuSeqlens` [S+1]. */
export function packedAttention({ stream, config }: Context, cuSeqlens: Tensor): Attend {
  return ({ qkv, attention: out, lse }) =>
    ops.attentionForward(stream, { qkv, out, lse, cuSeqlens, ...attentionConstants(config) })
}

export function attentionConstants(config: LlamaConfig) {
  return {
    numHeads: config.numAttentionHeads,
    numKvHeads: config.numKeyValueHeads,
    scale: 1 / Math.sqrt(config.headDim),
  }
}

/**
 * From the ids to the last block. The last sum stays undone: the model's output is `middle` of the last block plus
 * `delta`, which the head adds for the rows that it needs.
 */
export function forward(context: Context, activations: Activations, attend: Attend): void {
  const { stream, config, weights, units } = context
  const { blocks, ids, normalized: y, delta, rstd, hidden } = activations
  const eps = config.rmsNormEps
  units.get(0, 1)
  ops.embeddingForward(stream, { out: blocks[0].input, ids, w: weights.embedding })
  units.release(0)
  weights.blocks.forEach((w, index) => {
    const block = blocks[index]
    units.get(1 + index, 1)
    if (index === 0) {
      ops.rmsNormForward(stream, { y, rstd, x: block.input, w: w.inputNorm, eps })
    } else {
      const x = blocks[index - 1].middle
      ops.addRmsNormForward(stream, { y, rstd, sum: block.input, x, delta, w: w.inputNorm, eps })
    }
    linear(stream, flat(block.qkv), y, w.qkv)
    ops.ropeForward(stream, ropeArgs(context, activations, block.qkv))
    attend(block, index)
    linear(stream, delta, flat(block.attention), w.output)
    ops.addRmsNormForward(stream, { y, rstd, sum: block.middle, x: block.input, delta, w: w.postNorm, eps })
    linear(stream, block.gateUp, y, w.gateUp)
    ops.swigluForward(stream, { h: hidden, gateUp: block.gateUp })
    linear(stream, delta, hidden, w.down)
    units.release(1 + index)
  })
}

function backwardMlp(
  { stream, config }: Context,
  activations: Activations,
  block: BlockActivations,
  w: BlockTensors,
  dw: BlockTensors,
): void {
  const { normalized: y, rstd, hidden } = activations
  const grad = activations.gradients!
  ops.swigluForward(stream, { h: hidden, gateUp: block.gateUp })
  linearBackward(stream, grad.hidden, dw.down, grad.residual, hidden, w.down)
  ops.swigluBackward(stream, { gateUp: block.gateUp, dh: grad.hidden })
  ops.rmsNormForward(stream, { y, rstd, x: block.middle, w: w.postNorm, eps: config.rmsNormEps })
  linearBackward(stream, grad.normalized, dw.gateUp, block.gateUp, y, w.gateUp)
  ops.rmsNormBackward(stream, {
    dx: grad.residual,
    dw: dw.postNorm,
    dy: grad.normalized,
    x: block.middle,
    w: w.postNorm,
    rstd,
  })
}

function backwardAttention(
  context: Context,
  activations: Activations,
  block: BlockActivations,
  cuSeqlens: Tensor,
  w: BlockTensors,
  dw: BlockTensors,
): void {
  const { stream, config } = context
  const { normalized: y, rstd } = activations
  const grad = activations.gradients!
  linearBackward(stream, flat(grad.attention), dw.output, grad.residual, flat(block.attention), w.output)
  ops.attentionBackward(stream, {
    dqkv: grad.qkv,
    delta: grad.delta,
    dout: grad.attention,
    out: block.attention,
    lse: block.lse,
    qkv: block.qkv,
    cuSeqlens,
    ...attentionConstants(config),
  })
  ops.ropeBackward(stream, ropeArgs(context, activations, grad.qkv))
  ops.rmsNormForward(stream, { y, rstd, x: block.input, w: w.inputNorm, eps: config.rmsNormEps })
  linearBackward(stream, grad.normalized, dw.qkv, flat(grad.qkv), y, w.qkv)
  ops.rmsNormBackward(stream, {
    dx: grad.residual,
    dw: dw.inputNorm,
    dy: grad.normalized,
    x: block.input,
    w: w.inputNorm,
    rstd,
  })
}

/** From `gradients.residual`, which the head has written, back to the ids; adds into the weights' gradients. */
export function backward(
  context: Context,
  activations: Activations,
  cuSeqlens: Tensor,
  dw: ModelTensors,
  sums: UnitGradients,
): void {
  const { weights, units } = context
  for (let index = weights.blocks.length - 1; index >= 0; index--) {
    const block = activations.blocks[index]
    units.get(1 + index, -1)
    sums.begin(1 + index)
    backwardMlp(context, activations, block, weights.blocks[index], dw.blocks[index])
    backwardAttention(context, activations, block, cuSeqlens, weights.blocks[index], dw.blocks[index])
    sums.end(1 + index)
    units.release(1 + index)
  }
  const { ids, gradients } = activations
  sums.begin(0)
  ops.embeddingBackward(context.stream, { dw: dw.embedding, dout: gradients!.residual, ids })
  sums.end(0)
}
