import type { Device, Stream } from '../device.js'
import type { EventHandle } from '../native.js'
import type { Tensor } from '../tensor.js'
import type { Collectives } from './communicator.js'
import type { Rendezvous } from './rendezvous.js'

/**
 * What the ranks share among them (Rajbhandari et al. 2020, arXiv:1910.02054): 0 nothing, every rank has everything;
 * 1 masters and moments; 2 gradients as well; 3 weights as well.
 */
export type Stage = 0 | 1 | 2 | 3

/** What a group needs of the rendezvous once its ranks have met. */
export type Meeting = Pick<Rendezvous, 'exchange' | 'agree' | 'explain' | 'fail' | 'close'>

interface Members {
  device: Device
  communicator: Collectives
  stream: Stream
  rendezvous: Meeting
}

/** The ranks that train one model together, as one of them sees it. One process alone is a group of one. */
export class RankGroup implements Disposable {
  private handover?: [ready: EventHandle, done: EventHandle]

  private constructor(
    readonly rank: number,
    readonly size: number,
    readonly stage: Stage,
    private readonly members?: Members,
    /** Blocks whose weights are fetched ahead of the one being computed, in stage 3. */
    readonly prefetchBlocks = 1,
  ) {}

  static readonly alone = new RankGroup(0, 1, 0)

  /** @param stream the communication stream, on which all collectives of the group are enqueued */
  static of(
    device: Device,
    communicator: Collectives,
    stream: Stream,
    stage: Stage,
    rendezvous: Meeting,
    { prefetchBlocks }: { prefetchBlocks?: number } = {},
  ): RankGroup {
    const { rank, size } = communicator
    const members = { device, communicator, stream, rendezvous }
    return new RankGroup(rank, size, size === 1 ? 0 : stage, members, prefetchBlocks)
  }

  /** Where there are other ranks. */
  get communicator(): Collectives {
    return this.members!.communicator
  }

  /** The communication stream, where there are other ranks. */
  get stream(): Stream {
    return this.members!.stream
  }

  /** The elements of a unit that a rank owns when units are divided, in whole vectors, so that the last may have fewer. */
  shardLength(length: number): number {
    const alignment = 64
    return this.stage === 0 ? length : Math.ceil(length / this.size / alignment) * alignment
  }

  /** The elements of a unit in memory: the shards of all ranks. */
  paddedLength(length: number): number {
    return this.stage === 0 ? length : this.shardLength(length) * this.size
  }

  /** The numbers that each rank has given, by rank, to the bit. All give as many. */
  async gatherNumbers(values: readonly number[]): Promise<number[][]> {
    if (!this.members || this.size === 1 || values.length === 0)
      return Array.from({ length: this.size }, () => [...values])
    const { device, communicator, stream } = this.members
    const bytes = 8 * values.length
    // A collective moves bits: two floats hold those of a double.
    using out = device.tensor('float32', [(this.size * bytes) / 4])
    const input = out.view([bytes / 4], (this.rank * bytes) / 4)
    stream.write(input, new Uint8Array(Float64Array.from(values).buffer))
    communicator.allGather(stream, { out, input })
    const all = new Float64Array(this.size * values.length)
    await stream.read(out, new Uint8Array(all.buffer))
    return Array.from({ length: this.size }, (_, rank) => [
      ...all.subarray(rank * values.length, (rank + 1) * values.length),
    ])
  }

  /** Gives all ranks the 32-bit numbers of rank 0, in the order of `stream`. */
  broadcastBits(stream: Stream, x: Tensor): void {
    if (!this.members || this.size === 1) return
    const { device, communicator, stream: own } = this.members
    this.handover ??= [device.createEvent(), device.createEvent()]
    const [ready, done] = this.handover
    stream.record(ready)
    own.wait(ready)
    communicator.broadcast(own, x.view(x.shape, 0, 'float32'), 0)
    own.record(done)
    stream.wait(done)
  }

  /** Whether any rank says yes. */
  async any(answer: boolean): Promise<boolean> {
    return (await this.gatherNumbers([Number(answer)])).some(([other]) => other === 1)
  }

  /** What each rank has handed in, by rank; `what` names it in errors. For what JSON can hold, between steps. */
  async exchange<T>(what: string, value: T): Promise<T[]> {
    return this.members && this.size > 1 ? await this.members.rendezvous.exchange(what, value) : [value]
  }

  /** @throws {ParallelError} `RANKS_DISAGREE` unless all ranks have the same values; it names the one that differs */
  async agree(values: Record<string, unknown>): Promise<void> {
    if (this.members && this.size > 1) await this.members.rendezvous.agree(values)
  }

  /** A failed collective's error with the ranks that are its cause; any other error is returned as it is. */
  async explain(error: unknown): Promise<unknown> {
    return this.members && this.size > 1 ? await this.members.rendezvous.explain(error) : error
  }

  /** Tells the other ranks why this one ends, and lets go of what waits for them. */
  fail(message: string): void {
    this.members?.rendezvous.fail(message)
    this.members?.communicator.abort({ code: 'ABORTED', message })
  }

  /** Ends when all ranks have come to it. */
  async barrier(): Promise<void> {
    await this.exchange('barrier', null)
  }

  dispose(): void {
    this.members?.communicator.dispose()
    this.members?.rendezvous.close()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
