/** A model's layers as the transformer uses them: weights, plus gradients if trained. */
import type { Layout, Unit } from '../parallel/units.js'
import type { Tensor } from '../tensor.js'
import type { LlamaConfig } from './config.js'
import { type Role, viewOf } from './layout.js'
import { DenseLinear, type Linear } from './linear.js'
import { RmsNorm } from './norm.js'

/** One transformer block. C hidden size, H/K query and key/value heads of size D, F intermediate size. */
export interface Block {
  inputNorm: RmsNorm
  /** C → (H+2K)·D */
  qkv: Linear
  /** H·D → C */
  oProj: Linear
  postNorm: RmsNorm
  /** C → 2F */
  gateUp: Linear
  /** F → C */
  down: Linear
}

export interface Layers {
  /** [V, C], and its gradient if trained. */
  embedding: { w: Tensor; dw?: Tensor }
  blocks: Block[]
  finalNorm: RmsNorm
  /** C → V; shares the embedding's weights if the two are tied. */
  lmHead: Linear
}

/**
 * @param weights flat buffers, one per unit of the layout
 * @param gradients float32 buffers of the same layout
 */
export function layersOf(config: LlamaConfig, layout: Layout, weights: Tensor[], gradients?: Tensor[]): Layers {
  const pair = (unit: Unit, ...roles: Role[]) => {
    const view = (buffers: Tensor[]) => viewOf(buffers[unit.index], unit, ...roles)
    return [view(weights), gradients && view(gradients)] as const
  }
  const linear = (unit: Unit, ...roles: Role[]) => new DenseLinear(...pair(unit, ...roles))
  const norm = (unit: Unit, role: Role) => new RmsNorm(config.rmsNormEps, ...pair(unit, role))
  const { embedding, blocks, head, tied } = layout
  const [w, dw] = pair(embedding, 'embedding')
  return {
    embedding: { w, dw },
    blocks: blocks.map((unit) => ({
      inputNorm: norm(unit, 'inputNorm'),
      qkv: linear(unit, 'q', 'k', 'v'),
      oProj: linear(unit, 'o'),
      postNorm: norm(unit, 'postNorm'),
      gateUp: linear(unit, 'gate', 'up'),
      down: linear(unit, 'down'),
    })),
    finalNorm: norm(head, 'finalNorm'),
    lmHead: tied ? linear(embedding, 'embedding') : linear(head, 'lmHead'),
  }
}
