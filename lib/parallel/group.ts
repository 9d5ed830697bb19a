import type { Device, Stream } from '../device.js'
import type { EventHandle } from '../native.js'
import type { Tensor } from '../tensor.js'
import type { Collectives } from './communicator.js'
import type { Rendezvous } from './rendezvous.js'

/**
 * The state that is sharded (Rajbhandari et al. 2020, arXiv:1910.02054): 0 none, every rank has everything; 1 masters
 * and moments; 2 also gradients; 3 also weights.
 */
export type Stage = 0 | 1 | 2 | 3

/** The part of the rendezvous that a group uses after the ranks have connected. */
export type Meeting = Pick<Rendezvous, 'exchange' | 'agree' | 'explain' | 'fail' | 'close'>

interface Members {
  device: Device
  communicator: Collectives
  stream: Stream
  rendezvous: Meeting
}

/** The ranks that train one model together, seen from one of them. A single process is a group of one. */
export class RankGroup implements Disposable {
  private handover?: [ready: EventHandle, done: EventHandle]

  private constructor(
    readonly rank: number,
    readonly size: number,
    readonly stage: Stage,
    private readonly members?: Members,
    /** Blocks whose weights are prefetched ahead of the current one, in stage 3. */
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

  /** The communicator; requires more than one rank. */
  get communicator(): Collectives {
    return this.members!.communicator
  }

  /** The communication stream; requires more than one rank. */
  get stream(): Stream {
    return this.members!.stream
  }

  /**
   * The elements of a sharded unit that each rank owns, rounded up to full vectors, so the last rank may have fewer.
   */
  shardLength(length: number): number {
    const alignment = 64
    return this.stage === 0 ? length : Math.ceil(length / this.size / alignment) * alignment
  }

  /** The elements of a unit in memory: the shards of all ranks. */
  paddedLength(length: number): number {
    return this.stage === 0 ? length : this.shardLength(length) * this.size
  }

  /** Gathers the numbers of each rank, by rank, bit for bit. All ranks give the same number of values. */
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

  /** Sends rank 0's 32-bit values to all ranks, in the order of `stream`. */
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

  /** Whether the answer of any rank is true. */
  async any(answer: boolean): Promise<boolean> {
    return (await this.gatherNumbers([Number(answer)])).some(([other]) => other === 1)
  }

  /** The values of all ranks, by rank; `what` names them in errors. For JSON values, between steps. */
  async exchange<T>(what: string, value: T): Promise<T[]> {
    return this.members && this.size > 1 ? await this.members.rendezvous.exchange(what, value) : [value]
  }

  /**
   * @throws {ParallelError} `RANKS_DISAGREE` for values that are not the same on all ranks; it names the one that
   *   differs
   */
  async agree(values: Record<string, unknown>): Promise<void> {
    if (this.members && this.size > 1) await this.members.rendezvous.agree(values)
  }

  /** Adds the ranks that caused it to a failed collective's error; returns any other error unchanged. */
  async explain(error: unknown): Promise<unknown> {
    return this.members && this.size > 1 ? await this.members.rendezvous.explain(error) : error
  }

  /** Reports to the other ranks why this one ends, and frees what waits for them. */
  fail(message: string): void {
    this.members?.rendezvous.fail(message)
    this.members?.communicator.abort({ code: 'ABORTED', message })
  }

  /** Resolves when all ranks have reached it. */
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
