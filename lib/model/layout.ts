/**
 * How a model's parameters lie in memory. A unit (the embedding, one transformer block, the final norm with the output
 * projection) is one flat buffer: what ZeRO gathers, and what the optimizer walks, in one piece. Within a block the
 * query, key and value projections follow each other without a gap, and so do gate and up, so that each group is one
 * matrix product.
 */
import type { Layout, Parameter, Unit } from '../parallel/units.js'
import type { Tensor } from '../tensor.js'
import { numel } from '../tensor.js'
import type { LlamaConfig } from './config.js'

/** Groups start on 128 bytes of bfloat16, for vector loads and for tensor cores. */
const alignment = 64

function unit(name: string, groups: { name: string; shape: number[] }[][]): Unit {
  const parameters: Parameter[] = []
  let offset = 0
  for (const group of groups) {
    for (const { name, shape } of group) {
      parameters.push({ name, shape, offset })
      offset += numel(shape)
    }
    offset = Math.ceil(offset / alignment) * alignment
  }
  return { name, parameters, length: offset }
}

function block(config: LlamaConfig, index: number): Unit {
  const { hiddenSize, intermediateSize, headDim } = config
  const queries = config.numAttentionHeads * headDim
  const keys = config.numKeyValueHeads * headDim
  const prefix = `model.layers.${index}`
  const weight = (name: string, ...shape: number[]) => ({ name: `${prefix}.${name}.weight`, shape })
  return unit(prefix, [
    [weight('input_layernorm', hiddenSize)],
    [
      weight('self_attn.q_proj', queries, hiddenSize),
      weight('self_attn.k_proj', keys, hiddenSize),
      weight('self_attn.v_proj', keys, hiddenSize),
    ],
    [weight('self_attn.o_proj', hiddenSize, queries)],
    [weight('post_attention_layernorm', hiddenSize)],
    [weight('mlp.gate_proj', intermediateSize, hiddenSize), weight('mlp.up_proj', intermediateSize, hiddenSize)],
    [weight('mlp.down_proj', hiddenSize, intermediateSize)],
  ])
}

export function layoutOf(config: LlamaConfig): Layout {
  const matrix = [config.vocabSize, config.hiddenSize]
  const embedding = unit('model.embed_tokens', [[{ name: 'model.embed_tokens.weight', shape: matrix }]])
  const blocks = Array.from({ length: config.numHiddenLayers }, (_, i) => block(config, i))
  const projection = config.tieWordEmbeddings ? [] : [[{ name: 'lm_head.weight', shape: matrix }]]
  const head = unit('lm_head', [[{ name: 'model.norm.weight', shape: [config.hiddenSize] }], ...projection])
  return { embedding, blocks, head, units: [embedding, ...blocks, head] }
}

/** The number of parameters, tied ones counted once. */
export function parameterCount(config: LlamaConfig): number {
  return layoutOf(config).units.reduce(
    (total, { parameters }) => total + parameters.reduce((sum, { shape }) => sum + numel(shape), 0),
    0,
  )
}

/** A block's parameters (or their gradients) as the operands of its matrix products. */
export interface BlockTensors {
  /** [C] */
  inputNorm: Tensor
  /** [(H+2K)·D, C] */
  qkv: Tensor
  /** [C, H·D] */
  output: Tensor
  /** [C] */
  postNorm: Tensor
  /** [2F, C] */
  gateUp: Tensor
  /** [C, F] */
  down: Tensor
}

export interface ModelTensors {
  /** [V, C] */
  embedding: Tensor
  blocks: BlockTensors[]
  /** [C] */
  norm: Tensor
  /** [V, C]; the embedding itself when tied. */
  projection: Tensor
}

/** Views of flat buffers, one a unit in the order of `layout.units`, as the operands of the computation. */
export function modelTensors(config: LlamaConfig, layout: Layout, buffers: Tensor[]): ModelTensors {
  const { hiddenSize, intermediateSize, headDim, numAttentionHeads, numKeyValueHeads } = config
  const embedding = buffers[0].view([config.vocabSize, hiddenSize])
  const blocks = layout.blocks.map(({ parameters: [inputNorm, q, , , o, postNorm, gate, , down] }, index) => {
    const buffer = buffers[1 + index]
    return {
      inputNorm: buffer.view([hiddenSize], inputNorm.offset),
      qkv: buffer.view([(numAttentionHeads + 2 * numKeyValueHeads) * headDim, hiddenSize], q.offset),
      output: buffer.view([hiddenSize, numAttentionHeads * headDim], o.offset),
      postNorm: buffer.view([hiddenSize], postNorm.offset),
      gateUp: buffer.view([2 * intermediateSize, hiddenSize], gate.offset),
      down: buffer.view([hiddenSize, intermediateSize], down.offset),
    }
  })
  const head = buffers[buffers.length - 1]
  const [norm, projection] = layout.head.parameters
  return {
    embedding,
    blocks,
    norm: head.view([hiddenSize], norm.offset),
    projection: projection ? head.view([config.vocabSize, hiddenSize], projection.offset) : embedding,
  }
}
