/**
 * The transformer's blocks, forward and backward, in terms of ops; the same code runs on every device. Shapes: T tokens
 * of packed sequences, C hidden size, H/K query and key/value heads of size D, F intermediate size.
 */
import type { Stream } from '../device.js'
import * as ops from '../ops.js'
import type { Layout, UnitGradients, UnitWeights } from '../parallel/units.js'
import type { Tensor } from '../tensor.js'
import type { Activations, BlockActivations } from './activations.js'
import type { LlamaConfig } from './config.js'
import type { Block, Layers } from './layers.js'

/** State shared by the passes over a batch. */
export interface Context {
  stream: Stream
  config: LlamaConfig
  layout: Layout
  layers: Layers
  /** Gathers a unit's weights before use. */
  units: UnitWeights
  /** RoPE's tables, [positions, D/2]. */
  cos: Tensor
  sin: Tensor
}

/** Computes a block's attention from its rotated queries, keys, and values. */
export type Attend = (block: BlockActivations, index: number) => void

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
 * From the ids to the last block. The head does the last residual addition, and only for the rows that it needs: the
 * output is `residualMid` of the last block plus `residualUpdate`.
 */
export function forward(context: Context, activations: Activations, attend: Attend): void {
  const { stream, layers, layout, units } = context
  const { blocks, ids, normalized: y, residualUpdate: delta, rstd, act } = activations
  units.get(layout.embedding.index, 1)
  ops.embeddingForward(stream, { out: blocks[0].residualIn, ids, w: layers.embedding.w })
  units.release(layout.embedding.index)
  layers.blocks.forEach((layer, index) => {
    const block = blocks[index]
    const unit = layout.blocks[index].index
    units.get(unit, 1)
    if (index === 0) layer.inputNorm.forward(stream, { y, rstd, x: block.residualIn })
    else layer.inputNorm.addForward(stream, { y, rstd, sum: block.residualIn, x: blocks[index - 1].residualMid, delta })
    layer.qkv.forward(stream, block.qkv, y)
    ops.ropeForward(stream, ropeArgs(context, activations, block.qkv))
    attend(block, index)
    layer.oProj.forward(stream, delta, block.attention)
    layer.postNorm.addForward(stream, { y, rstd, sum: block.residualMid, x: block.residualIn, delta })
    layer.gateUp.forward(stream, block.gateUp, y)
    ops.swigluForward(stream, { h: act, gateUp: block.gateUp })
    layer.down.forward(stream, delta, act)
    units.release(unit)
  })
}

/** The MLP backward pass: recomputes the normalized input and the activation, which the forward pass does not keep. */
function backwardMlp({ stream }: Context, activations: Activations, block: BlockActivations, layer: Block): void {
  const { normalized: y, rstd, act } = activations
  const grad = activations.gradients!
  ops.swigluForward(stream, { h: act, gateUp: block.gateUp })
  layer.down.backward(stream, grad.act, grad.residual, act)
  ops.swigluBackward(stream, { gateUp: block.gateUp, dh: grad.act })
  layer.postNorm.forward(stream, { y, rstd, x: block.residualMid })
  layer.gateUp.backward(stream, grad.normalized, block.gateUp, y)
  layer.postNorm.backward(stream, { dx: grad.residual, dy: grad.normalized, x: block.residualMid, rstd })
}

function backwardAttention(
  context: Context,
  activations: Activations,
  block: BlockActivations,
  layer: Block,
  cuSeqlens: Tensor,
): void {
  const { stream, config } = context
  const { normalized: y, rstd } = activations
  const grad = activations.gradients!
  layer.oProj.backward(stream, grad.attention, grad.residual, block.attention)
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
  layer.inputNorm.forward(stream, { y, rstd, x: block.residualIn })
  layer.qkv.backward(stream, grad.normalized, grad.qkv, y)
  layer.inputNorm.backward(stream, { dx: grad.residual, dy: grad.normalized, x: block.residualIn, rstd })
}

/** From `gradients.residual`, which the head has written, back to the ids; accumulates the layers' gradients. */
export function backward(
  context: Context,
  activations: Activations,
  cuSeqlens: Tensor,
  gradients: UnitGradients,
): void {
  const { stream, layers, layout, units } = context
  for (let index = layers.blocks.length - 1; index >= 0; index--) {
    const block = activations.blocks[index]
    const unit = layout.blocks[index].index
    units.get(unit, -1)
    gradients.begin(unit)
    backwardMlp(context, activations, block, layers.blocks[index])
    backwardAttention(context, activations, block, layers.blocks[index], cuSeqlens)
    gradients.end(unit)
    units.release(unit)
  }
  const { dw } = layers.embedding
  gradients.begin(layout.embedding.index)
  if (dw) ops.embeddingBackward(stream, { dw, dout: activations.gradients!.residual, ids: activations.ids })
  gradients.end(layout.embedding.index)
}
