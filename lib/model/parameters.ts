/** A model's weights in device memory, by unit: initialized or loaded from weight files, and read back for saving. */

import type { Device } from '../device.js'
import { CheckpointError } from '../errors.js'
import type { CastLosses } from '../formats/cast.js'
import type { Overflows } from '../formats/overflows.js'
import { type ElementRange, sliceSource } from '../formats/slice.js'
import type { TensorInfo, WeightSource } from '../io/weight-source.js'
import * as ops from '../ops.js'
import { RankGroup } from '../parallel/group.js'
import { ShardedWeights } from '../parallel/sharded.js'
import type { Layout, Parameter } from '../parallel/units.js'
import { bytesPerElement, type DType, numel, type Tensor } from '../tensor.js'
import type { LlamaConfig } from './config.js'
import { checkFit, unusableTypes } from './fit.js'
import { type Layers, layersOf } from './layers.js'
import { layoutOf } from './layout.js'
import { readPieces, uploadTensors } from './transfer.js'

/** A dtype that a model can compute in. */
export type ModelDType = 'bfloat16' | 'float32'

/** A parameter's location in the buffers. */
interface Place {
  unit: number
  parameter: Parameter
}

/** The elements of a parameter in this rank's shard of its unit. */
interface OwnedRange extends ElementRange {
  place: Place
  /** Offset from the shard's start, in elements. */
  offset: number
}

/**
 * The weights of a model, or this rank's shards of them. Buffers "of this layout" are flat tensors, one per unit, in
 * the order of `layout.units`.
 */
export class Parameters implements Disposable {
  readonly layout: Layout
  /** The model's layers, without gradients. */
  readonly layers: Layers
  readonly weights: ShardedWeights
  private masterBuffers?: Tensor[]
  private hostMasters = false
  private readonly places = new Map<string, Place>()

  /** Allocates memory for weights; `initialize` or `load` fills it. */
  constructor(
    readonly device: Device,
    readonly config: LlamaConfig,
    readonly dtype: ModelDType,
    readonly group: RankGroup = RankGroup.alone,
  ) {
    this.layout = layoutOf(config)
    this.weights = new ShardedWeights(device, this.layout, dtype, group)
    this.layers = layersOf(config, this.layout, this.weights.buffers)
    this.layout.units.forEach(({ parameters }, unit) => {
      for (const parameter of parameters) this.places.set(parameter.name, { unit, parameter })
    })
  }

  /** The weights that this rank owns, in this layout: all of them unless they are sharded. */
  get buffers(): Tensor[] {
    return this.weights.shards
  }

  /** Zeroed buffers with the sizes of those that this rank owns. */
  allocate(dtype: DType, device = this.device): Tensor[] {
    return this.buffers.map(({ length }) => {
      const buffer = device.tensor(dtype, [length])
      ops.fill(device.stream, { x: buffer, value: 0 })
      return buffer
    })
  }

  /** Names and shapes, in state dict order. */
  list(): Parameter[] {
    return [...this.places.values()].map(({ parameter }) => parameter)
  }

  /** The float32 master weights: the weights themselves, or a copy made on first use. */
  get masters(): Tensor[] {
    if (!this.masterBuffers) {
      if (this.dtype === 'float32') return this.buffers
      this.masterBuffers = this.allocate('float32')
      this.masterBuffers.forEach((dst, i) => {
        ops.cast(this.device.stream, { dst, src: this.buffers[i] })
      })
    }
    return this.masterBuffers
  }

  get hasMasters(): boolean {
    return this.dtype === 'float32' || this.masterBuffers !== undefined
  }

  /** The device that holds and updates the masters. */
  get masterDevice(): Device {
    return this.masterBuffers?.[0].device ?? this.device
  }

  /** Whether the masters are a separate copy in the CPU's memory. */
  get mastersOnHost(): boolean {
    return this.hostMasters
  }

  /** Moves the masters to the CPU's memory; does nothing if they are already there. */
  async moveMastersToHost(): Promise<void> {
    if (this.hostMasters) return
    const { host } = this.device
    const masters = this.masters
    const moved = masters.map(({ length }) => host.tensor('float32', [length]))
    for (const [i, master] of masters.entries()) await this.device.stream.transfer(moved[i], master)
    for (const buffer of this.masterBuffers ?? []) buffer.dispose()
    this.masterBuffers = moved
    this.hostMasters = true
  }

  /** Rounds the masters to the weights; call it after the masters change. */
  async updateFromMasters(): Promise<void> {
    if (!this.hostMasters) return this.roundMasters()
    for (const [i, master] of this.masters.entries()) {
      using rounded = this.masterDevice.tensor(this.dtype, master.shape)
      ops.cast(this.masterDevice.stream, { dst: rounded, src: master })
      await this.masterDevice.stream.synchronize()
      await this.device.stream.transfer(this.buffers[i], rounded)
    }
    this.weights.invalidate()
  }

  private roundMasters(): void {
    this.masterBuffers?.forEach((src, i) => {
      ops.cast(this.device.stream, { dst: this.buffers[i], src })
    })
    this.weights.invalidate()
  }

  /**
   * Initializes weights as Transformers initializes a LLaMA: normal matrices, norms of one. If masters exist, they are
   * drawn and rounded to the weights; the weights are the same either way.
   */
  initialize(seed: number): void {
    const { stream } = this.device
    const targets = this.hasMasters ? this.masters : this.buffers
    let streamId = 0
    for (const place of this.places.values()) {
      const { shape } = place.parameter
      const id = shape.length === 1 ? undefined : streamId++
      const range = this.ownedRange(place)
      const x = this.ownedView(targets, range)
      if (id === undefined) ops.fill(stream, { x, value: 1 })
      else if (range.count === numel(shape)) this.draw(x, seed, id)
      else if (range.count > 0) {
        // A draw is a function of its position in the full parameter, so that shards match the unsharded draw.
        using whole = this.device.tensor(x.dtype, [numel(shape)])
        this.draw(whole, seed, id)
        ops.cast(stream, { dst: x, src: whole.view([range.count], range.start) })
      }
    }
    this.roundMasters()
  }

  private draw(x: Tensor, seed: number, streamId: number): void {
    ops.randomNormal(this.device.stream, { x, std: this.config.initializerRange, seed, streamId })
  }

  /**
   * Loads the weights, and the masters if they exist, from files in parallel pieces.
   * @throws {CheckpointError} for a tensor that is missing, unknown, of the wrong shape, or not floating-point
   */
  async load(source: WeightSource, where: string, signal?: AbortSignal): Promise<void> {
    this.check(source, where)
    const targets = this.hasMasters ? this.masters : this.buffers
    const ranges = new Map([...this.places].map(([name, place]) => [name, this.ownedRange(place)]))
    for (const [name, { count }] of ranges) if (count === 0) ranges.delete(name)
    const views = [...ranges].map(([name, range]) => [name, this.ownedView(targets, range)] as const)
    await uploadTensors(sliceSource(source, ranges), new Map(views), signal)
    await this.updateFromMasters()
    await this.device.stream.synchronize()
  }

  /**
   * Every weight as bytes of `dtype`, for a writer: from the masters if they exist, else from the weights.
   * @param overflows counts finite values that `dtype` cannot hold, once their tensor has been read
   */
  entries(
    dtype: ModelDType | 'float16',
    overflows?: Overflows,
  ): (TensorInfo & { dtype: typeof dtype; data: () => AsyncIterable<Uint8Array> })[] {
    return [...this.places.values()].map((place) => ({
      name: place.parameter.name,
      dtype,
      shape: place.parameter.shape,
      bytes: numel(place.parameter.shape) * bytesPerElement(dtype),
      data: () => this.pieces(place, dtype, overflows),
    }))
  }

  private async *pieces(place: Place, dtype: DType, overflows?: Overflows): AsyncGenerator<Uint8Array> {
    const { unit, parameter } = place
    const whole = await this.fetch(unit)
    const losses: CastLosses = { overflows: 0 }
    yield* readPieces(whole.view([numel(parameter.shape)], parameter.offset), dtype, losses)
    overflows?.add(parameter.name, losses.overflows)
  }

  /** A parameter's flat view within full buffers of this layout. */
  private view(buffers: Tensor[], { unit, parameter }: Place): Tensor {
    return buffers[unit].view([numel(parameter.shape)], parameter.offset)
  }

  private ownedRange(place: Place): OwnedRange {
    const { unit, parameter } = place
    const shard = this.buffers[unit].length
    const from = this.group.stage === 0 ? 0 : this.group.rank * shard
    const start = Math.max(from, parameter.offset)
    const end = Math.min(from + shard, parameter.offset + numel(parameter.shape))
    return { place, start: start - parameter.offset, count: Math.max(0, end - start), offset: start - from }
  }

  private ownedView(buffers: Tensor[], { place, count, offset }: OwnedRange): Tensor {
    return buffers[place.unit].view([count], count > 0 ? offset : 0)
  }

  /** Gathers a full unit from the ranks' shards in buffers of this layout. All ranks must call it. */
  private async whole(unit: number, buffers: Tensor[]): Promise<Tensor> {
    const { device, group } = this
    const own = buffers[unit]
    const out = device.tensor(own.dtype, [own.length * group.size])
    const input = out.view([own.length], group.rank * own.length)
    if (own.device === device) ops.cast(device.stream, { dst: input, src: own })
    else await device.stream.transfer(input, own)
    const complete = device.createEvent()
    device.stream.record(complete)
    group.stream.wait(complete)
    group.communicator.allGather(group.stream, { out, input })
    await group.stream.synchronize()
    return out
  }

  /** Whether the device has enough memory for `copyWhole` and for computing with the copy. */
  get copyFits(): boolean {
    const elements = this.layout.units.reduce((sum, { length }) => sum + length, 0)
    return 1.2 * elements * bytesPerElement(this.dtype) < this.device.properties.freeMemory
  }

  /** Gathers a full copy of the weights on rank 0, for work that it does alone. All ranks must call it. */
  async copyWhole(): Promise<Parameters | undefined> {
    const copy = this.group.rank === 0 ? new Parameters(this.device, this.config, this.dtype) : undefined
    for (const [unit, { length }] of this.layout.units.entries()) {
      using whole = await this.whole(unit, this.buffers)
      if (copy) ops.cast(this.device.stream, { dst: copy.buffers[unit], src: whole.view([length]) })
    }
    return copy
  }

  private fetched?: { unit: number; whole: Tensor }

  /**
   * A unit in the best available precision; in a group, rank 0 assembles it while the other ranks `lend` their shards.
   */
  private async fetch(unit: number): Promise<Tensor> {
    const buffers = this.hasMasters ? this.masters : this.buffers
    if (this.group.stage === 0) return buffers[unit]
    if (this.fetched?.unit !== unit) {
      this.fetched?.whole.dispose()
      await this.group.gatherNumbers([unit])
      this.fetched = { unit, whole: await this.whole(unit, buffers) }
    }
    return this.fetched.whole
  }

  /**
   * Lets rank 0 read `entries`, for example to write a file, while the other ranks send their shards of each unit in
   * order: no rank ever holds more than one full unit. All ranks must call it.
   */
  async collect(read: () => Promise<void>): Promise<void> {
    const { rank, stage } = this.group
    if (rank === 0) {
      try {
        await read()
      } finally {
        this.fetched?.whole.dispose()
        this.fetched = undefined
        if (stage > 0) await this.group.gatherNumbers([-1])
      }
      return
    }
    for (;;) {
      if (stage === 0) return
      const [[unit]] = await this.group.gatherNumbers([-1])
      if (unit < 0) return
      const whole = await this.whole(unit, this.hasMasters ? this.masters : this.buffers)
      whole.dispose()
    }
  }

  /**
   * Parameters by Hugging Face name, gathered from this rank's buffers of this layout, such as gradients. All ranks
   * must call it.
   */
  async toMap(buffers: Tensor[]): Promise<Map<string, Float32Array>> {
    if (this.group.stage === 0) {
      const entries = [...this.places].map(async ([name, place]) => {
        const array = (await this.view(buffers, place).toArray()) as Float32Array
        return [name, array] as const
      })
      return new Map(await Promise.all(entries))
    }
    const map = new Map<string, Float32Array>()
    for (const [unit, { parameters }] of this.layout.units.entries()) {
      using whole = await this.whole(unit, buffers)
      for (const { name, shape, offset } of parameters) {
        map.set(name, (await whole.view([numel(shape)], offset).toArray()) as Float32Array)
      }
    }
    return map
  }

  private check(source: WeightSource, where: string): void {
    checkFit(this.config, source.tensors.values(), where)
    const [unusable] = unusableTypes(this.config, source.tensors.values(), where)
    if (unusable !== undefined) throw new CheckpointError(`${where}: ${unusable}`)
  }

  dispose(): void {
    this.weights.dispose()
    for (const buffer of this.masterBuffers ?? []) buffer.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
