/**
 * The memory layout of a model's parameters. Each unit (the embedding, one transformer block, the final norm with the
 * output projection) is one flat buffer, which ZeRO gathers and the optimizer updates in one piece. Within a block the
 * query, key and value projections are contiguous, as are gate and up, so that each group is one matrix product.
 */
import type { Layout, Parameter, Unit } from '../parallel/units.js'
import type { Tensor } from '../tensor.js'
import { numel } from '../tensor.js'
import type { LlamaConfig } from './config.js'

/** A parameter's role in the computation. */
export type Role =
  | 'embedding'
  | 'inputNorm'
  | 'q'
  | 'k'
  | 'v'
  | 'o'
  | 'postNorm'
  | 'gate'
  | 'up'
  | 'down'
  | 'finalNorm'
  | 'lmHead'

/** Contiguous parameters. */
type Group = { role: Role; name: string; shape: number[] }[]

/** Groups start at multiples of 128 bytes in bfloat16, for vector loads and tensor cores. */
const alignment = 64

function unit(index: number, name: string, groups: Group[]): Unit {
  const parameters: Parameter[] = []
  let offset = 0
  for (const group of groups) {
    for (const { role, name, shape } of group) {
      parameters.push({ role, name, shape, offset })
      offset += numel(shape)
    }
    offset = Math.ceil(offset / alignment) * alignment
  }
  return { index, name, parameters, length: offset }
}

/** The parameters of block `index`, in the order of Transformers' state dict. */
function block(config: LlamaConfig, index: number): Group[] {
  const { hiddenSize, intermediateSize, headDim } = config
  const queries = config.numAttentionHeads * headDim
  const keys = config.numKeyValueHeads * headDim
  const weight = (role: Role, name: string, ...shape: number[]) => {
    return { role, name: `model.layers.${index}.${name}.weight`, shape }
  }
  return [
    [weight('inputNorm', 'input_layernorm', hiddenSize)],
    [
      weight('q', 'self_attn.q_proj', queries, hiddenSize),
      weight('k', 'self_attn.k_proj', keys, hiddenSize),
      weight('v', 'self_attn.v_proj', keys, hiddenSize),
    ],
    [weight('o', 'self_attn.o_proj', hiddenSize, queries)],
    [weight('postNorm', 'post_attention_layernorm', hiddenSize)],
    [
      weight('gate', 'mlp.gate_proj', intermediateSize, hiddenSize),
      weight('up', 'mlp.up_proj', intermediateSize, hiddenSize),
    ],
    [weight('down', 'mlp.down_proj', hiddenSize, intermediateSize)],
  ]
}

export function layoutOf(config: LlamaConfig): Layout {
  const { hiddenSize, numHiddenLayers, tieWordEmbeddings: tied, vocabSize } = config
  const shape = [vocabSize, hiddenSize]
  const finalNorm: Group = [{ role: 'finalNorm', name: 'model.norm.weight', shape: [hiddenSize] }]
  const lmHead: Group = [{ role: 'lmHead', name: 'lm_head.weight', shape }]
  const embedding = unit(0, 'model.embed_tokens', [[{ role: 'embedding', name: 'model.embed_tokens.weight', shape }]])
  const blocks = Array.from({ length: numHiddenLayers }, (_, i) => unit(1 + i, `model.layers.${i}`, block(config, i)))
  const head = unit(1 + numHiddenLayers, 'lm_head', tied ? [finalNorm] : [finalNorm, lmHead])
  return { embedding, blocks, head, tied, units: [embedding, ...blocks, head] }
}

/** The number of parameters, with tied ones counted once. */
export function parameterCount(config: LlamaConfig): number {
  return layoutOf(config).units.reduce(
    (total, { parameters }) => total + parameters.reduce((sum, { shape }) => sum + numel(shape), 0),
    0,
  )
}

/**
 * A view of a matrix or vector in a unit's flat buffer, found by role. Several roles must be adjacent projections of
 * the same input; their rows are stacked.
 */
export function viewOf(buffer: Tensor, unit: Unit, ...roles: Role[]): Tensor {
  const found = roles.map((role) => {
    const parameter = unit.parameters.find((parameter) => parameter.role === role)
    if (!parameter) throw new RangeError(`${unit.name} has no parameter in the role of ${role}`)
    return parameter
  })
  const [{ shape, offset }] = found
  const rows = found.reduce((sum, parameter) => sum + parameter.shape[0], 0)
  return buffer.view([rows, ...shape.slice(1)], offset)
}
