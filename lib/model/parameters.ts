/** A model's weights in device memory, unit by unit: made anew, read from weight files, and handed to their writer. */
import { isRotaryBuffer } from '../checkpoint/names.js'
import type { TensorInfo, WeightSource } from '../checkpoint/types.js'
import type { Device } from '../device.js'
import { CheckpointError } from '../errors.js'
import * as ops from '../ops.js'
import { bytesPerElement, type DType, numel, type Tensor } from '../tensor.js'
import type { LlamaConfig } from './config.js'
import { type Layout, layoutOf, type ModelTensors, modelTensors, type Parameter } from './layout.js'
import { loadableDTypes, readPieces, uploadTensors } from './transfer.js'

export type ModelDType = 'bfloat16' | 'float32'

/** A parameter's place in the buffers. */
interface Place {
  unit: number
  parameter: Parameter
}

export class Parameters implements Disposable {
  readonly layout: Layout
  /** One flat buffer a unit, in the order of `layout.units`. */
  readonly buffers: Tensor[]
  readonly tensors: ModelTensors
  private masterBuffers?: Tensor[]
  private readonly places = new Map<string, Place>()

  /** Memory for weights, to be filled by `initialize` or `load`. */
  constructor(
    readonly device: Device,
    readonly config: LlamaConfig,
    readonly dtype: ModelDType,
  ) {
    this.layout = layoutOf(config)
    this.buffers = this.layout.units.map(({ length }) => device.tensor(dtype, [length]))
    this.tensors = modelTensors(config, this.layout, this.buffers)
    this.layout.units.forEach(({ parameters, length }, unit) => {
      parameters.forEach((parameter, i) => {
        this.places.set(parameter.name, { unit, parameter })
        const end = parameter.offset + numel(parameter.shape)
        const gap = (parameters[i + 1]?.offset ?? length) - end
        if (gap > 0) ops.fill(device.stream, { x: this.buffers[unit].view([gap], end), value: 0 })
      })
    })
  }

  /** Zeroed buffers of the units' lengths. */
  allocate(dtype: DType): Tensor[] {
    return this.layout.units.map(({ length }) => {
      const buffer = this.device.tensor(dtype, [length])
      ops.fill(this.device.stream, { x: buffer, value: 0 })
      return buffer
    })
  }

  /** Names and shapes, in the order of a state dict. */
  list(): Parameter[] {
    return [...this.places.values()].map(({ parameter }) => parameter)
  }

  /** The float32 weights to train: the weights themselves, or a copy that is made when it is first asked for. */
  get masters(): Tensor[] {
    if (this.dtype === 'float32') return this.buffers
    if (!this.masterBuffers) {
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

  /** Rounds the masters to the weights. */
  updateFromMasters(): void {
    if (!this.masterBuffers) return
    this.masterBuffers.forEach((src, i) => {
      ops.cast(this.device.stream, { dst: this.buffers[i], src })
    })
  }

  /**
   * Draws new weights as Transformers initialises a LLaMA: normal matrices, norms of one. The masters where they exist
   * are drawn, and the weights rounded from them; the weights are the same without.
   */
  initialize(seed: number): void {
    const { stream } = this.device
    const targets = this.hasMasters ? this.masters : this.buffers
    let streamId = 0
    for (const [, place] of this.places) {
      const { parameter } = place
      const x = this.view(targets, place)
      if (parameter.shape.length === 1) ops.fill(stream, { x, value: 1 })
      else ops.randomNormal(stream, { x, std: this.config.initializerRange, seed, streamId: streamId++ })
    }
    this.updateFromMasters()
  }

  /**
   * Fills the weights from files, in parallel pieces; the masters too where they exist.
   * @throws {CheckpointError} for a tensor that is missing, unknown, of another shape, or not of floating point
   */
  async load(source: WeightSource, where: string, signal?: AbortSignal): Promise<void> {
    this.check(source, where)
    const targets = this.hasMasters ? this.masters : this.buffers
    const views = [...this.places].map(([name, place]) => [name, this.view(targets, place)] as const)
    await uploadTensors(source, new Map(views), signal)
    this.updateFromMasters()
    await this.device.stream.synchronize()
  }

  /** Every weight as bytes of `dtype`, for a writer: from the masters where they exist, else from the weights. */
  entries(
    dtype: ModelDType | 'float16',
  ): (TensorInfo & { dtype: typeof dtype; data: () => AsyncIterable<Uint8Array> })[] {
    return [...this.places.values()].map((place) => ({
      name: place.parameter.name,
      dtype,
      shape: place.parameter.shape,
      bytes: numel(place.parameter.shape) * bytesPerElement(dtype),
      data: () => readPieces(this.view(this.hasMasters ? this.masters : this.buffers, place), dtype),
    }))
  }

  /** A parameter within buffers of this layout, flat. */
  private view(buffers: Tensor[], { unit, parameter }: Place): Tensor {
    return buffers[unit].view([numel(parameter.shape)], parameter.offset)
  }

  /** Parameters by Hugging Face name within buffers of this layout, such as gradients. */
  async toMap(buffers: Tensor[]): Promise<Map<string, Float32Array>> {
    const entries = [...this.places].map(async ([name, place]) => {
      const array = (await this.view(buffers, place).toArray()) as Float32Array
      return [name, array] as const
    })
    return new Map(await Promise.all(entries))
  }

  private check(source: WeightSource, where: string): void {
    for (const [name, { parameter }] of this.places) {
      const info = source.tensors.get(name)
      if (!info) throw new CheckpointError(`${where}: the weights have no tensor ${name}, which config.json asks for`)
      if (info.shape.join() !== parameter.shape.join()) {
        throw new CheckpointError(
          `${where}: ${name} has shape [${info.shape.join(', ')}], but config.json asks for [${parameter.shape.join(', ')}]`,
        )
      }
      if (!loadableDTypes.includes(info.dtype)) {
        throw new CheckpointError(`${where}: ${name} is ${info.dtype}; weights must be ${loadableDTypes.join(', ')}`)
      }
    }
    for (const name of source.tensors.keys()) {
      const tied = this.config.tieWordEmbeddings && name === 'lm_head.weight'
      if (!this.places.has(name) && !tied && !isRotaryBuffer(name)) {
        throw new CheckpointError(`${where}: the architecture that config.json describes has no tensor ${name}`)
      }
    }
  }

  dispose(): void {
    for (const buffer of [...this.buffers, ...(this.masterBuffers ?? [])]) buffer.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
