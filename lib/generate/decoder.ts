/**
 * Generation: one packed forward pass over the prompts fills the key/value caches, then each step generates a token for
 * every sequence. A step is one recorded graph, from the embedding to the sampling, whose only changing state
 * (positions, ids, history) is on the device, so the next token can be launched before the last one is read.
 *
 * If the weights are sharded over ranks, all ranks decode together and gather each unit for every token. Rank 0 samples
 * for all, so that they cannot diverge.
 */

import { ActivationMemory } from '../model/activations.js'
import { LmHead } from '../model/lm-head.js'
import type { Parameters } from '../model/parameters.js'
import type { RopeCache } from '../model/rope.js'
import { type Attend, attentionConstants, type Context, forward, packedAttention } from '../model/transformer.js'
import type { GraphHandle } from '../native.js'
import * as ops from '../ops.js'
import type { UnitWeights } from '../parallel/units.js'
import type { Tensor } from '../tensor.js'
import type { Sampling } from './options.js'
import { samplingTensors } from './sampling-tensors.js'

/** Tokens launched ahead of the one that is read. */
const lookahead = 2

/** For weights that are not sharded: a recorded graph has nothing to wait for. */
const inPlace: UnitWeights = { get() {}, release() {} }

export class Decoder implements Disposable {
  private readonly batch: number
  private readonly memory: ActivationMemory
  private readonly head: LmHead
  private readonly caches: { kCache: Tensor; vCache: Tensor }[]
  private readonly state: Record<
    'ids' | 'positions' | 'history' | 'sequenceSeeds' | 'sequences' | 'scratch' | 'logits',
    Tensor
  >
  private readonly settings: ReturnType<typeof samplingTensors>
  private readonly context: Context
  private readonly temporary: Tensor[] = []

  /**
   * @param rope with tables for `capacity` positions
   * @param prompts ids of each sequence
   * @param capacity positions per sequence, including the prompt
   */
  constructor(
    private readonly parameters: Parameters,
    rope: RopeCache,
    private readonly prompts: readonly (readonly number[])[],
    private readonly sampling: Sampling,
    private readonly capacity: number,
  ) {
    const { device, config, dtype, layout, layers } = parameters
    const tokens = prompts.reduce((sum, { length }) => sum + length, 0)
    this.batch = prompts.length
    this.context = {
      stream: device.stream,
      config,
      layout,
      layers,
      units: this.together ? parameters.weights : inPlace,
      ...rope.tables,
    }
    this.memory = new ActivationMemory(device, config, dtype, tokens, false)
    this.head = new LmHead(device, config, dtype, this.batch)
    const cache = () => this.keep(device.tensor(dtype, [this.batch, capacity, config.numKeyValueHeads, config.headDim]))
    this.caches = layers.blocks.map(() => ({ kCache: cache(), vCache: cache() }))
    const integers = (...shape: number[]) => this.keep(device.tensor('int32', shape))
    this.state = {
      ids: integers(this.batch),
      positions: integers(this.batch),
      history: integers(this.batch, capacity),
      sequenceSeeds: integers(this.batch),
      sequences: integers(this.batch),
      scratch: this.keep(device.tensor('float32', [this.batch, 2 * config.vocabSize])),
      logits: this.keep(device.tensor('float32', [this.batch, config.vocabSize])),
    }
    this.settings = samplingTensors(
      device,
      prompts.map(() => sampling),
    )
    for (const tensor of Object.values(this.settings)) this.keep(tensor)
  }

  /** The maximum number of sequences per decoder. */
  static maxBatch(vocabSize: number): number {
    return Math.max(1, Math.floor((1 << 23) / vocabSize))
  }

  /**
   * Yields the next token of every sequence, without end; the caller stops when it has enough.
   *
   * However it ends (a device error, an early `return`), every read that was launched ahead settles first: none rejects
   * unhandled, and no work of this generation runs afterwards.
   */
  async *tokens(): AsyncGenerator<Int32Array> {
    const { stream } = this.context
    const pending: Promise<Int32Array>[] = []
    const read = () => {
      const ids = new Int32Array(this.batch)
      const result = stream.read(this.state.ids, ids).then(() => ids)
      result.catch(() => {}) // a consumer that stops without `return` never awaits it
      pending.push(result)
    }
    try {
      this.prefill()
      read()
      let graph: GraphHandle | undefined
      for (let launched = 1; pending.length > 0; ) {
        while (pending.length < lookahead && launched < this.sampling.maxNewTokens) {
          if (this.together) this.step()
          else {
            graph ??= stream.capture(() => this.step())
            stream.launch(graph)
          }
          read()
          launched++
        }
        const ids = await pending[0]
        pending.shift()
        yield ids
      }
    } catch (error) {
      // Errors of ops that were enqueued without a read must not reach the next user of the stream.
      await stream.synchronize().catch(() => {})
      throw error
    } finally {
      await Promise.allSettled(pending)
    }
  }

  /** Runs the prompts through the model and samples the first new token of each. */
  private prefill(): void {
    const { context, state, prompts } = this
    const { stream } = context
    const lengths = prompts.map((prompt) => prompt.length)
    const activations = this.memory.for(lengths.reduce((a, b) => a + b, 0))
    const ends = [0]
    for (const length of lengths) ends.push(ends[ends.length - 1] + length)
    const cuSeqlens = this.upload(Int32Array.from(ends))
    const sequences = this.upload(Int32Array.from(prompts.flatMap((prompt, b) => prompt.map(() => b))))
    stream.write(activations.ids, Int32Array.from(prompts.flat()))
    stream.write(activations.positions, Int32Array.from(prompts.flatMap((prompt) => prompt.map((_, i) => i))))

    const attend = packedAttention(context, cuSeqlens)
    forward(context, activations, (block, index) => {
      this.writeCache(index, block.qkv, sequences, activations.positions)
      attend(block, index)
    })

    const history = new Int32Array(this.batch * this.capacity)
    prompts.forEach((prompt, b) => {
      history.set(prompt, b * this.capacity)
    })
    stream.write(state.history, history)
    // If the first sampling fails, a step that was launched ahead still reads valid ids.
    stream.write(state.ids, new Int32Array(this.batch))
    stream.write(
      state.positions,
      Int32Array.from(lengths, (length) => length - 1),
    )
    stream.write(state.sequences, Int32Array.from(prompts.keys()))
    stream.write(
      state.sequenceSeeds,
      Int32Array.from(prompts, (prompt, b) => this.duplicateIndex(prompt, b)),
    )
    const lastRows = Int32Array.from(ends.slice(1), (end) => end - 1)
    this.withHead(() => this.draw(this.head.logits(context, activations, lastRows, state.logits)))
  }

  /** Whether the weights are sharded over ranks. */
  private get together(): boolean {
    return this.parameters.group.stage === 3
  }

  private withHead(work: () => void): void {
    const { units } = this.context
    const head = this.parameters.layout.head.index
    units.get(head, 1)
    try {
      work()
    } finally {
      units.release(head)
    }
  }

  /** Generates one new token for every sequence. */
  private step(): void {
    const { context, state } = this
    const { stream, config, layers } = context
    const activations = { ...this.memory.for(this.batch), ids: state.ids, positions: state.positions }
    const attend: Attend = ({ qkv, attention: out }, index) => {
      this.writeCache(index, qkv, state.sequences, state.positions)
      const cache = this.caches[index]
      ops.attentionDecode(stream, { out, qkv, ...cache, positions: state.positions, ...attentionConstants(config) })
    }
    forward(context, activations, attend)
    const { normalized: y, residualUpdate: delta, rstd, blocks } = activations
    const sum = blocks[config.numHiddenLayers - 1].residualMid
    this.withHead(() => {
      layers.finalNorm.addForward(stream, { y, rstd, sum, x: sum, delta })
      layers.lmHead.forward(stream, state.logits, y)
      this.draw(state.logits)
    })
  }

  private draw(logits: Tensor): void {
    const { ids, positions, history, sequenceSeeds, scratch } = this.state
    const { stream, config } = this.context
    for (const { start, end } of this.sampling.excluded) {
      for (let b = 0; b < this.batch; b++) {
        const x = logits.view([end - start], b * config.vocabSize + start)
        ops.fill(stream, { x, value: Number.NEGATIVE_INFINITY })
      }
    }
    ops.sample(stream, { ids, positions, history, logits, sequenceSeeds, scratch, ...this.settings })
    if (this.together) this.parameters.group.broadcastBits(stream, ids)
  }

  private writeCache(block: number, qkv: Tensor, sequences: Tensor, positions: Tensor): void {
    const { numAttentionHeads: numHeads, numKeyValueHeads: numKvHeads } = this.context.config
    ops.kvCacheWrite(this.context.stream, { ...this.caches[block], qkv, sequences, positions, numHeads, numKvHeads })
  }

  /** Numbers equal prompts in a batch, so that each gets a different text; a unique prompt samples as if alone. */
  private duplicateIndex(prompt: readonly number[], index: number): number {
    const key = prompt.join()
    return this.prompts.slice(0, index).filter((other) => other.join() === key).length
  }

  private upload(data: Int32Array): Tensor {
    const tensor = this.keep(this.parameters.device.tensor('int32', [data.length]))
    this.context.stream.write(tensor, data)
    return tensor
  }

  private keep(tensor: Tensor): Tensor {
    this.temporary.push(tensor)
    return tensor
  }

  dispose(): void {
    this.memory.dispose()
    this.head.dispose()
    for (const tensor of this.temporary) tensor.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
