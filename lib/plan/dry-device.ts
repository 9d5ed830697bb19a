/**
 * A device without memory or computation that only counts: allocations, enqueued work, and when it would finish. The
 * model, the optimizer and the training step run on it unchanged, so that a plan reflects their actual sizes and order
 * of work.
 */
import { Device, type DeviceType, Stream } from '../device.js'
import type { DeviceProperties, EventHandle } from '../native.js'
import type { Collectives } from '../parallel/communicator.js'
import { bytesPerElement, type DType, type HostArray, numel, Tensor } from '../tensor.js'
import type { Lane, Timeline } from './timeline.js'

/** Stands in for the addon's device handle, which is never read here. */
const noHandle = {} as never

/** Of a collective: all ranks' bytes together, as `all_gather` writes and `reduce_scatter` reads them. */
export type CollectiveName = 'all_gather' | 'reduce_scatter' | 'all_reduce' | 'broadcast' | 'barrier'

/** Durations in seconds. */
export interface Costs {
  /** @param contents of small tensors that the host has written, such as the ends of the packed sequences */
  op(name: string, args: object, contents: (tensor: Tensor) => HostArray | undefined): number
  collective(name: CollectiveName, bytes: number, ranks: number): number
  /** Between the device and host memory. */
  transfer(bytes: number): number
  /** Of ops on the CPU, which shares its cores among the ranks of a machine. */
  hostOp(name: string, args: object): number
  /** Host time per enqueue. */
  call: number
}

class DryTensor extends Tensor {
  private disposed = false

  constructor(
    readonly owner: DryDevice,
    dtype: DType,
    shape: readonly number[],
    source?: Tensor,
  ) {
    super(owner, dtype, shape, noHandle, source)
  }

  override view(shape: readonly number[], offset = 0, dtype: DType = this.dtype): Tensor {
    const end = offset * bytesPerElement(this.dtype) + numel(shape) * bytesPerElement(dtype)
    if (end > this.byteLength) throw new RangeError(`a view ends at byte ${end} of ${this.byteLength}`)
    return new DryTensor(this.owner, dtype, shape, this)
  }

  override dispose(): void {
    if (!this.disposed && !this.source) this.owner.bytes -= this.byteLength
    this.disposed = true
  }
}

export class DryDevice extends Device {
  /** Bytes allocated. */
  bytes = 0
  private streams = 0
  /** When the work recorded before an event finishes. */
  readonly events = new WeakMap<EventHandle, number>()
  /** Contents of small tensors, written by the host or other ranks. */
  readonly contents = new WeakMap<Tensor, HostArray>()
  private dryHost?: DryDevice

  /** @param lanes the lanes of its streams, in order of creation; further streams use the last one */
  constructor(
    type: DeviceType,
    private readonly has: DeviceProperties,
    readonly timeline: Timeline,
    readonly costs: Costs,
    private readonly lanes: Lane[] = ['compute', 'communication', 'transfer'],
  ) {
    super(type, noHandle)
  }

  override get host(): DryDevice {
    this.dryHost ??= new DryDevice('cpu', this.has, this.timeline, this.costs, ['host'])
    return this.dryHost
  }

  override get properties(): DeviceProperties {
    return this.has
  }

  override setThreads(): void {}

  override createStream(): DryStream {
    return new DryStream(this, this.lanes[Math.min(this.streams++, this.lanes.length - 1)])
  }

  override createEvent(): EventHandle {
    return {} as EventHandle
  }

  override tensor(dtype: DType, shape: readonly number[]): Tensor {
    const tensor = new DryTensor(this, dtype, shape)
    this.bytes += tensor.byteLength
    return tensor
  }
}

export class DryStream extends Stream {
  /** When all enqueued work finishes. */
  private free = 0

  constructor(
    readonly device: DryDevice,
    private readonly lane: Lane,
  ) {
    super(noHandle)
  }

  /** Adds work of the given duration. */
  take(seconds: number): void {
    const { timeline, costs } = this.device
    timeline.now += costs.call
    this.free = timeline.run(this.lane, this.free, seconds)
  }

  override enqueue(op: string, args: object): void {
    const { costs, contents } = this.device
    this.take(this.lane === 'host' ? costs.hostOp(op, args) : costs.op(op, args, (tensor) => contents.get(tensor)))
  }

  override write(tensor: Tensor, data: HostArray): void {
    this.device.contents.set(tensor, data)
    this.take(0)
  }

  override async upload(tensor: Tensor, data: HostArray): Promise<void> {
    this.write(tensor, data)
    await this.synchronize()
  }

  override async transfer(destination: Tensor): Promise<void> {
    this.take(this.device.costs.transfer(destination.byteLength))
    await this.synchronize()
  }

  /** The written contents, or zeros. */
  override async read(tensor: Tensor, data: HostArray): Promise<void> {
    const written = this.device.contents.get(tensor)
    if (written) bytesOf(data).set(bytesOf(written))
    await this.synchronize()
  }

  override async synchronize(): Promise<void> {
    const { timeline } = this.device
    const done = this.free
    await null // as with a real device, enqueueing continues before any wait
    timeline.now = Math.max(timeline.now, done)
  }

  override record(event: EventHandle): void {
    this.device.events.set(event, Math.max(this.free, this.device.timeline.now))
  }

  override wait(event: EventHandle): void {
    this.free = Math.max(this.free, this.device.events.get(event) ?? 0)
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: HostArray) => new Uint8Array(buffer, byteOffset, byteLength)

/** The traffic of a rank, by kind of collective. */
export interface Traffic {
  calls: number
  /** Bytes of the full tensor exchanged. */
  bytes: number
  /** Bytes that this rank sends. */
  sent: number
}

/**
 * Rank 0 of a group with simulated other ranks, which reach each collective at the same time and with the same
 * arguments.
 */
export class DryCommunicator implements Collectives {
  readonly rank = 0
  readonly traffic = new Map<CollectiveName, Traffic>()

  constructor(
    readonly size: number,
    private readonly costs: Costs,
  ) {}

  allGather(stream: Stream, { out, input }: { out: Tensor; input: Tensor }): void {
    const { contents } = (stream as DryStream).device
    const own = contents.get(input)
    if (own) {
      const all = new Uint8Array(out.byteLength)
      for (let rank = 0; rank < this.size; rank++) all.set(bytesOf(own), rank * input.byteLength)
      contents.set(out, all)
    }
    this.count(stream, 'all_gather', out.byteLength, (this.size - 1) * input.byteLength)
  }

  reduceScatter(stream: Stream, { out, input }: { out: Tensor; input: Tensor }): void {
    this.count(stream, 'reduce_scatter', input.byteLength, input.byteLength - out.byteLength)
  }

  allReduce(stream: Stream, x: Tensor): void {
    // A reduce-scatter and an all-gather, regardless of the algorithm.
    this.count(stream, 'all_reduce', x.byteLength, Math.round((2 * x.byteLength * (this.size - 1)) / this.size))
  }

  broadcast(stream: Stream, x: Tensor): void {
    this.count(stream, 'broadcast', x.byteLength, x.byteLength)
  }

  barrier(stream: Stream): void {
    this.count(stream, 'barrier', 0, 0)
  }

  abort(): void {}
  dispose(): void {}

  private count(stream: Stream, name: CollectiveName, bytes: number, sent: number): void {
    const so = this.traffic.get(name) ?? { calls: 0, bytes: 0, sent: 0 }
    this.traffic.set(name, { calls: so.calls + 1, bytes: so.bytes + bytes, sent: so.sent + sent })
    ;(stream as DryStream).take(this.costs.collective(name, bytes, this.size))
  }
}
