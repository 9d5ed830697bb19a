/**
 * The predicted cost of a run on some GPUs: memory by kind, and the time of a step, including how much communication is
 * hidden. The model, the optimizer and the step of a real run execute on a device that only counts (dry-device.ts).
 */

import { LlamaForCausalLM } from '../causal-lm.js'
import type { Instance } from '../data/instances.js'
import { batchesFrom, totalSteps } from '../data/order.js'
import { spreadBatch } from '../data/packing.js'
import { DataError } from '../errors.js'
import type { LlamaConfig } from '../model/config.js'
import { parameterCount } from '../model/layout.js'
import type { ModelDType } from '../model/parameters.js'
import type { TrainPass } from '../model/train-pass.js'
import { RankGroup, type Stage } from '../parallel/group.js'
import type { Tensor } from '../tensor.js'
import { trainingFlops } from '../train/flops.js'
import { AdamW } from '../train/optimizer.js'
import type { Recipe } from '../train/recipe-schema.js'
import { batchShape, paddedTokens, trainStep } from '../train/step.js'
import { microBatchTokens } from '../train/trainer.js'
import { type CollectiveName, DryCommunicator, DryDevice, type Traffic } from './dry-device.js'
import { costsOf, type Hardware } from './hardware.js'
import { Timeline, type Usage } from './timeline.js'

export interface PlanOptions {
  recipe: Recipe
  config: LlamaConfig
  /** The training data; only lengths matter. */
  instances: readonly Instance[]
  hardware: Hardware
  device: 'cpu' | 'cuda'
  dtype: ModelDType
  /** Total number of ranks, spread evenly over `nodes` machines. */
  ranks: number
  nodes: number
  /** Number of steps to simulate. @default 4 */
  steps?: number
}

export const memoryKinds = {
  weights: 'weights',
  masters: 'float32 masters',
  moments: 'moments',
  gradients: 'gradients',
  gathered_weights: 'gathered weights',
  gathered_gradients: 'gathered gradients',
  activations: 'activations',
  logits: 'logits chunk',
  other: 'tables, indices',
} as const

/** Bytes per rank. */
export type PlannedMemory = Record<keyof typeof memoryKinds, number>

export interface Plan {
  parameters: number
  dtype: ModelDType
  ranks: number
  nodes: number
  zero_stage: number
  /**
   * Bytes per rank by kind, and those in host memory; totals include `reserved`, and `capacity` is the available
   * memory.
   */
  memory: PlannedMemory & { host: number; reserved: number; total: number; capacity: number; fits: boolean }
  /** Means over the simulated steps; per-rank values are those of rank 0, which has the most work. */
  batch: { instances: number; tokens: number; micro_batches: number; max_tokens: number }
  /** Seconds per step, and their breakdown. */
  step: Usage
  /** Per step and rank. */
  traffic: Partial<Record<CollectiveName, Traffic>>
  tokens_per_second: number
  /** The model's operations as a fraction of the data sheet's peak. */
  utilization: number
  /** The complete recipe, without validation, samples and checkpoints. */
  run: { steps: number; seconds: number }
}

const bytesOf = (tensors: readonly Tensor[]) => tensors.reduce((sum, { byteLength }) => sum + byteLength, 0)

/** A rank of the run, on a device that only counts; it must be disposed of. */
class DryRun implements Disposable {
  readonly timeline: Timeline
  readonly communicator: DryCommunicator
  private readonly device: DryDevice
  private readonly model: LlamaForCausalLM
  private optimizer!: AdamW
  private trainPass!: TrainPass

  static async begin(options: PlanOptions, maxTokens: number): Promise<DryRun> {
    const run = new DryRun(options, maxTokens)
    const { model } = run
    const { recipe } = options
    // As in the trainer.
    if (recipe.offload === 'optimizer') await model.parameters.moveMastersToHost()
    run.optimizer = new AdamW(model.parameters, {
      beta1: recipe.adam_beta1,
      beta2: recipe.adam_beta2,
      epsilon: recipe.adam_epsilon,
      weightDecay: recipe.weight_decay,
    })
    run.trainPass = model.trainPass(paddedTokens(maxTokens))
    return run
  }

  private constructor(
    { recipe, config, hardware, device: type, dtype, ranks, nodes }: PlanOptions,
    readonly maxTokens: number,
  ) {
    const costs = costsOf(hardware, nodes, dtype, ranks)
    const properties = {
      name: hardware.name,
      isa: '',
      id: '',
      units: 1,
      fastBfloat16: true,
      totalMemory: hardware.memory,
      freeMemory: hardware.memory,
    }
    this.timeline = new Timeline(hardware.shared_cores)
    this.device = new DryDevice(type, properties, this.timeline, costs)
    const { device } = this
    void device.stream // creates the compute stream first
    this.communicator = new DryCommunicator(ranks, costs)
    const group = RankGroup.of(
      device,
      this.communicator,
      device.createStream(),
      recipe.zero_stage as Stage,
      simulated,
      {
        prefetchBlocks: recipe.prefetch_blocks,
      },
    )
    this.model = LlamaForCausalLM.fromConfig(config.json, { device, dtype, group, masterWeights: true })
  }

  get memory(): PlannedMemory {
    const { model, optimizer, trainPass, device } = this
    const { parameters } = model
    const [weights, gradients] = [parameters.weights.bytes, trainPass.gradientBytes]
    const own = (tensors: readonly Tensor[]) => bytesOf(tensors.filter((tensor) => tensor.device === device))
    const kinds = {
      weights: weights.kept,
      // In float32 the weights serve as masters.
      masters: parameters.masters === parameters.buffers ? 0 : own(parameters.masters),
      moments: own([...optimizer.m, ...optimizer.v]),
      gradients: gradients.kept,
      gathered_weights: weights.gathered,
      gathered_gradients: gradients.gathered,
      ...trainPass.workingBytes,
    }
    return { ...kinds, other: device.bytes - Object.values(kinds).reduce((sum, bytes) => sum + bytes, 0) }
  }

  /** Bytes in host memory: masters and moments if they are offloaded. */
  get hostBytes(): number {
    return this.device.host.bytes
  }

  async step(recipe: Recipe, instances: readonly Instance[]): Promise<void> {
    await trainStep(this.trainPass, this.optimizer, instances, {
      lossReduction: recipe.loss_reduction,
      maxTokens: this.maxTokens,
      maxGradNorm: recipe.max_grad_norm,
      lr: recipe.learning_rate,
      step: 1,
    })
    await this.device.stream.synchronize()
  }

  [Symbol.dispose](): void {
    this.trainPass.dispose()
    this.optimizer.dispose()
    this.model.dispose()
  }
}

/** Stands in for the rendezvous with the other ranks. */
const simulated = {
  exchange: async <T>(_what: string, value: T) => [value],
  agree: async () => {},
  explain: async (error: unknown) => error,
  fail: () => {},
  close: () => {},
}

const longestOf = (instances: readonly Instance[]) =>
  instances.reduce((most, { inputIds }) => Math.max(most, inputIds.length), 0)

/** The memory of a rank, and whether it fits. */
export async function planMemory(options: PlanOptions): Promise<Plan['memory'] & { max_tokens: number }> {
  const { recipe, instances, hardware } = options
  using run = await DryRun.begin(options, microBatchTokens(recipe, longestOf(instances)))
  const { memory, maxTokens, hostBytes: host } = run
  const { reserved } = hardware
  // A GPU belongs to one rank; the ranks of a machine share its memory.
  const capacity = options.device === 'cpu' ? (hardware.memory * options.nodes) / options.ranks : hardware.memory
  const total = Object.values(memory).reduce((sum, bytes) => sum + bytes, reserved)
  return { ...memory, host, reserved, total, capacity, fits: total <= capacity, max_tokens: maxTokens }
}

/**
 * Simulates the first steps of a run.
 * @throws {DataError} for instances that do not fill one batch
 */
export async function planRun(options: PlanOptions): Promise<Plan> {
  const { recipe, config, instances, hardware, dtype, ranks, nodes } = options
  const { max_tokens, ...memory } = await planMemory(options)
  const order = { count: instances.length, batchSize: recipe.batch_size, epochs: recipe.epochs, seed: recipe.seed }
  const allSteps = Math.min(totalSteps(order), recipe.max_steps ?? Number.POSITIVE_INFINITY)
  if (allSteps === 0)
    throw new DataError(`${order.count} instances do not fill one batch of ${order.batchSize}: lower batch_size`)
  const steps = Math.min(options.steps ?? 4, allSteps)

  using run = await DryRun.begin(options, max_tokens)
  const { timeline, communicator } = run
  communicator.traffic.clear()
  const start = timeline.now
  let [tokens, flops, microBatches] = [0, 0, 0]
  for (const { step, indices } of batchesFrom(0, order)) {
    if (step === steps) break
    const batch = Array.from(indices, (index) => instances[index])
    await run.step(recipe, batch)
    const { lengths, labelTokens } = batchShape(batch)
    tokens += lengths.reduce((sum, length) => sum + length, 0)
    flops += trainingFlops(config, lengths, labelTokens)
    microBatches += spreadBatch(lengths, max_tokens, ranks)[0].length
  }
  const usage = timeline.usage(start, timeline.now)
  const mean = <T extends object>(sums: T): T =>
    Object.fromEntries(Object.entries(sums).map(([key, sum]) => [key, (sum as number) / steps])) as T
  return {
    parameters: parameterCount(config),
    dtype,
    ranks,
    nodes,
    zero_stage: recipe.zero_stage,
    memory,
    batch: { instances: recipe.batch_size, ...mean({ tokens, micro_batches: microBatches }), max_tokens },
    step: mean(usage),
    traffic: Object.fromEntries([...communicator.traffic].map(([name, sums]) => [name, mean(sums)])),
    tokens_per_second: tokens / usage.total,
    utilization: flops / usage.total / (hardware.peak_flops * ranks),
    run: { steps: allSteps, seconds: (allSteps * usage.total) / steps },
  }
}
