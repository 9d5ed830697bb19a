/**
 * The working memory of a forward and backward pass, allocated once for the largest batch so that no step allocates.
 * Each block keeps what its backward pass needs (the residual stream before attention and before the MLP, the rotated
 * queries, keys and values, the attention output, gate and up); norms and SwiGLU are cheap and recomputed.
 */
import type { Device } from '../device.js'
import { type DType, numel, type Tensor } from '../tensor.js'
import type { LlamaConfig } from './config.js'

/** What a block's forward pass keeps for its backward pass. T tokens. */
export interface BlockActivations {
  /** [T, C]: the residual stream before attention. */
  residualIn: Tensor
  /** [T, H+2K, D], rotated. */
  qkv: Tensor
  /** [T, H, D] */
  attention: Tensor
  /** [H, T] */
  lse: Tensor
  /** [T, C]: the residual stream before the MLP. */
  residualMid: Tensor
  /** [T, 2F] */
  gateUp: Tensor
}

/** A view of the working memory for one batch. */
export interface Activations {
  tokens: number
  ids: Tensor
  positions: Tensor
  blocks: BlockActivations[]
  /** [T, C]: the normalized input of a projection. */
  normalized: Tensor
  /** [T, C]: the output of attention or the MLP, to be added to the residual stream. */
  residualUpdate: Tensor
  /** [T] */
  rstd: Tensor
  /** [T, F]: silu(gate) · up */
  act: Tensor
  /** Gradients; present only in training. */
  gradients?: {
    /** [T, C]: gradient of the residual stream. */
    residual: Tensor
    /** [T, C] */
    normalized: Tensor
    /** [T, H+2K, D] */
    qkv: Tensor
    /** [T, H, D] */
    attention: Tensor
    /** [H, T]: FlashAttention's D, the row sums of dO ∘ O. */
    delta: Tensor
    /** [T, F] */
    act: Tensor
  }
}

type Plan = { dtype: DType; shape: (tokens: number) => number[] }
type Plans = Record<string, Plan>

function sharedPlans(config: LlamaConfig, dtype: DType): Plans {
  const { hiddenSize: c, intermediateSize: f } = config
  return {
    ids: { dtype: 'int32', shape: (t) => [t] },
    positions: { dtype: 'int32', shape: (t) => [t] },
    normalized: { dtype, shape: (t) => [t, c] },
    residualUpdate: { dtype, shape: (t) => [t, c] },
    rstd: { dtype: 'float32', shape: (t) => [t] },
    act: { dtype, shape: (t) => [t, f] },
  }
}

function blockPlans(config: LlamaConfig, dtype: DType): Plans {
  const { hiddenSize: c, intermediateSize: f, numAttentionHeads: h, numKeyValueHeads: k, headDim: d } = config
  return {
    residualIn: { dtype, shape: (t) => [t, c] },
    qkv: { dtype, shape: (t) => [t, h + 2 * k, d] },
    attention: { dtype, shape: (t) => [t, h, d] },
    lse: { dtype: 'float32', shape: (t) => [h, t] },
    residualMid: { dtype, shape: (t) => [t, c] },
    gateUp: { dtype, shape: (t) => [t, 2 * f] },
  }
}

function gradientPlans(config: LlamaConfig, dtype: DType): Plans {
  const { hiddenSize: c, intermediateSize: f, numAttentionHeads: h, numKeyValueHeads: k, headDim: d } = config
  return {
    residual: { dtype, shape: (t) => [t, c] },
    normalized: { dtype, shape: (t) => [t, c] },
    qkv: { dtype, shape: (t) => [t, h + 2 * k, d] },
    attention: { dtype, shape: (t) => [t, h, d] },
    delta: { dtype: 'float32', shape: (t) => [h, t] },
    act: { dtype, shape: (t) => [t, f] },
  }
}

export class ActivationMemory implements Disposable {
  private readonly memory: Tensor[] = []
  private readonly views = new Map<number, Activations>()
  private readonly fill: (tokens: number) => Activations

  /**
   * @param maxTokens the number of tokens in the largest batch
   * @param training keeps the activations of every block and allocates gradients; otherwise the blocks share one set
   */
  constructor(
    private readonly device: Device,
    config: LlamaConfig,
    dtype: DType,
    readonly maxTokens: number,
    training: boolean,
  ) {
    const shared = this.allocate(sharedPlans(config, dtype))
    const gradients = training ? this.allocate(gradientPlans(config, dtype)) : undefined
    const sets = Array.from({ length: training ? config.numHiddenLayers : 1 }, () =>
      this.allocate(blockPlans(config, dtype)),
    )
    this.fill = (tokens) => {
      const blocks = sets.map((set) => set(tokens) as unknown as BlockActivations)
      return {
        tokens,
        ...shared(tokens),
        blocks: training ? blocks : Array(config.numHiddenLayers).fill(blocks[0]),
        gradients: gradients?.(tokens),
      } as unknown as Activations
    }
  }

  /** A view of the memory for a batch of `tokens` tokens. */
  for(tokens: number): Activations {
    if (tokens > this.maxTokens) {
      throw new RangeError(`a batch of ${tokens} tokens exceeds the ${this.maxTokens} that were planned for`)
    }
    let view = this.views.get(tokens)
    if (!view) {
      view = this.fill(tokens)
      this.views.set(tokens, view)
    }
    return view
  }

  get bytes(): number {
    return this.memory.reduce((sum, { byteLength }) => sum + byteLength, 0)
  }

  private allocate(plans: Plans): (tokens: number) => Record<string, Tensor> {
    const entries = Object.entries(plans).map(([name, plan]) => {
      const tensor = this.device.tensor(plan.dtype, [numel(plan.shape(this.maxTokens))])
      this.memory.push(tensor)
      return [name, plan, tensor] as const
    })
    return (tokens) =>
      Object.fromEntries(entries.map(([name, plan, tensor]) => [name, tensor.view(plan.shape(tokens))]))
  }

  dispose(): void {
    for (const tensor of this.memory) tensor.dispose()
    this.views.clear()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
