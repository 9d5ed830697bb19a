/**
 * ZeRO: shards a unit's weights and gradients over the ranks; full buffers exist only while a pass needs them.
 * Collectives run on the communication stream while the compute stream works on another unit; events order the two:
 *
 *   weights    gather: wait until the slot's last user is done (`used`) → all-gather → `arrived`
 *              get: the compute stream waits for `arrived`;  release: the compute stream records `used`
 *   gradients  begin: the compute stream waits until the slot's last sums have left it (`arrived`)
 *              end: the compute stream records `used` → reduce-scatter into this rank's sums → `arrived`
 *
 * Stages differ in the number of buffers. Below stage 3 each unit has a separate buffer for weights, and its shard is a
 * part of it; below stage 2 the same holds for gradients. In stage 0 the shard is the full buffer.
 */
import type { Device, Stream } from '../device.js'
import type { EventHandle } from '../native.js'
import * as ops from '../ops.js'
import type { DType, Tensor } from '../tensor.js'
import type { RankGroup } from './group.js'
import { type Layout, type UnitGradients, type UnitWeights, unitsNeededBy } from './units.js'

/** A buffer shared by several units, one at a time. */
interface Slot {
  buffer: Tensor
  /** The unit whose weights it holds or receives. */
  occupant?: number
  held: boolean
  /** The communication stream is done with it. */
  arrived: EventHandle
  /** The compute stream is done with it. */
  used: EventHandle
}

/**
 * The slot of each unit: a separate one; or, with shared slots, the blocks cycle through `turns` slots, and the
 * embedding and the head, which are never needed at once unless tied, share another.
 * @param turns the number of buffers for the blocks
 */
function slotsFor(
  layout: Layout,
  group: RankGroup,
  device: Device,
  dtype: DType,
  { shared, turns }: { shared: boolean; turns: number },
): Slot[] {
  const { units, embedding, head, tied } = layout
  const name = (unit: number) => {
    if (!shared) return `${unit}`
    if (unit === embedding.index || unit === head.index) return tied ? `${unit}` : 'ends'
    return `block ${unit % turns}`
  }
  const lengths = new Map<string, number>()
  for (const [unit, { length }] of units.entries()) {
    lengths.set(name(unit), Math.max(lengths.get(name(unit)) ?? 0, group.paddedLength(length)))
  }
  const slots = new Map<string, Slot>()
  for (const [key, length] of lengths) {
    const [buffer, arrived, used] = [device.tensor(dtype, [length]), device.createEvent(), device.createEvent()]
    ops.fill(device.stream, { x: buffer, value: 0 })
    slots.set(key, { buffer, arrived, used, held: false })
  }
  return units.map((_, unit) => slots.get(name(unit))!)
}

/** This rank's part of a full buffer. */
function ownPart(whole: Tensor, group: RankGroup, length: number): Tensor {
  const shard = group.shardLength(length)
  return group.stage === 0 ? whole : whole.view([shard], group.rank * shard)
}

/** Bytes on this rank: of its shards, and of the buffers that hold full units temporarily. */
export interface UnitBytes {
  kept: number
  gathered: number
}

function bytesOf(slots: Slot[], kept: Tensor[], scattered: boolean): UnitBytes {
  const sum = (tensors: Iterable<Tensor>) => [...tensors].reduce((total, { byteLength }) => total + byteLength, 0)
  const whole = sum(new Set(slots.map(({ buffer }) => buffer)))
  return scattered ? { kept: sum(kept), gathered: whole } : { kept: whole, gathered: 0 }
}

export class ShardedWeights implements UnitWeights, Disposable {
  /** The weights to compute with, one buffer per unit; in stage 3 valid between `get` and `release`. */
  readonly buffers: Tensor[]
  /** The shard of each unit that this rank owns and updates. */
  readonly shards: Tensor[]
  private readonly slots: Slot[]
  private readonly compute: Stream
  private readonly changed: EventHandle

  constructor(
    device: Device,
    private readonly layout: Layout,
    dtype: DType,
    private readonly group: RankGroup,
  ) {
    const { units } = layout
    const scattered = group.stage === 3
    this.compute = device.stream
    this.changed = device.createEvent()
    this.slots = slotsFor(layout, group, device, dtype, { shared: scattered, turns: group.prefetchBlocks + 1 })
    this.buffers = units.map(({ length }, unit) => this.slots[unit].buffer.view([group.paddedLength(length)]))
    this.shards = units.map(({ length }, unit) => {
      if (!scattered) return ownPart(this.buffers[unit], group, length)
      const shard = device.tensor(dtype, [group.shardLength(length)])
      ops.fill(device.stream, { x: shard, value: 0 })
      return shard
    })
  }

  get bytes(): UnitBytes {
    return bytesOf(this.slots, this.shards, this.group.stage === 3)
  }

  /** Marks gathered weights as out of date after the shards change. */
  invalidate(): void {
    for (const slot of this.slots) slot.occupant = undefined
    if (this.group.stage > 0) this.compute.record(this.changed)
  }

  get(unit: number, direction: 1 | -1): void {
    if (this.group.stage === 0) return
    const last = this.layout.head.index
    for (const needed of unitsNeededBy(unit, this.layout)) {
      this.gather(needed)
      this.slots[needed].held = true
      this.compute.wait(this.slots[needed].arrived)
    }
    // The backward pass does not need the embedding's weights.
    const ahead = this.group.prefetchBlocks
    for (let next = unit + direction, n = 0; n < ahead && next > 0 && next <= last; next += direction, n++)
      this.gather(next)
  }

  /** Below stage 3: gathers all weights, so that a rank may compute alone until they change. */
  gatherAll(): void {
    for (const unit of this.layout.units.keys()) {
      this.get(unit, 1)
      this.release(unit)
    }
  }

  release(unit: number): void {
    if (this.group.stage === 0) return
    for (const needed of unitsNeededBy(unit, this.layout)) {
      this.slots[needed].held = false
      this.compute.record(this.slots[needed].used)
    }
  }

  private gather(unit: number): void {
    const slot = this.slots[unit]
    if (slot.occupant === unit) return
    if (slot.held) throw new Error(`unit ${slot.occupant} is in use where unit ${unit} is to go`)
    const { communicator, stream } = this.group
    stream.wait(slot.used)
    stream.wait(this.changed)
    communicator.allGather(stream, { out: this.buffers[unit], input: this.shards[unit] })
    stream.record(slot.arrived)
    slot.occupant = unit
  }

  dispose(): void {
    for (const { buffer } of this.slots) buffer.dispose()
    for (const shard of this.shards) shard.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

export class ShardedGradients implements UnitGradients, Disposable {
  /**
   * The gradients that the passes accumulate into, one buffer per unit; from stage 2 on valid between `begin` and
   * `end`.
   */
  readonly buffers: Tensor[]
  /** float32 sums of this rank's shard of each unit, complete after `finish`. */
  readonly sums: Tensor[]
  private readonly slots: Slot[]
  private readonly compute: Stream
  private readonly done: EventHandle
  private readonly scattered: boolean
  /** Whether the micro-batch is the last of its step. */
  private last = false

  constructor(
    device: Device,
    private readonly layout: Layout,
    private readonly group: RankGroup,
  ) {
    const { units } = layout
    this.scattered = group.stage >= 2
    this.compute = device.stream
    this.done = device.createEvent()
    // Two, so that one unit's gradients are summed over the ranks while the next one's are computed.
    this.slots = slotsFor(layout, group, device, 'float32', { shared: this.scattered, turns: 2 })
    this.buffers = units.map(({ length }, unit) => this.slots[unit].buffer.view([group.paddedLength(length)]))
    this.sums = units.map(({ length }, unit) =>
      this.scattered
        ? device.tensor('float32', [group.shardLength(length)])
        : ownPart(this.buffers[unit], group, length),
    )
    this.zero()
  }

  get bytes(): UnitBytes {
    return bytesOf(this.slots, this.sums, this.scattered)
  }

  /** Call before the first micro-batch of a step. */
  zero(): void {
    for (const x of this.scattered ? this.sums : this.buffers) ops.fill(this.compute, { x, value: 0 })
  }

  /** Call before the passes of a micro-batch; after the last one the sums include all ranks. */
  startBatch(isLast: boolean): void {
    this.last = isLast
  }

  begin(unit: number): void {
    if (!this.scattered) return
    // A tied embedding gets gradients from both ends: the head begins, and the embedding ends.
    if (unit === this.layout.embedding.index && this.layout.tied) return
    for (const needed of unitsNeededBy(unit, this.layout)) {
      const x = this.buffers[needed]
      this.compute.wait(this.slots[needed].arrived)
      ops.fill(this.compute, { x, value: 0 })
      // Puts the sums so far into this rank's part before the reduction, which saves a separate addition.
      ops.cast(this.compute, { dst: ownPart(x, this.group, this.layout.units[needed].length), src: this.sums[needed] })
    }
  }

  end(unit: number): void {
    if (this.group.size === 1 || !(this.scattered || this.last)) return
    const { communicator, stream, stage } = this.group
    const slot = this.slots[unit]
    this.compute.record(slot.used)
    stream.wait(slot.used)
    if (stage === 0) communicator.allReduce(stream, this.buffers[unit])
    else communicator.reduceScatter(stream, { out: this.sums[unit], input: this.buffers[unit] })
    stream.record(slot.arrived)
  }

  /** Ops enqueued after this see the sums of all ranks. */
  finish(): void {
    if (this.group.size === 1) return
    this.group.stream.record(this.done)
    this.compute.wait(this.done)
  }

  dispose(): void {
    for (const { buffer } of this.slots) buffer.dispose()
    for (const sum of this.sums) sum.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
