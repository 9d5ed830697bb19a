import type { Device, Stream } from '../device.js'
import { ParallelError } from '../errors.js'
import { type CommunicatorHandle, native } from '../native.js'
import type { Tensor } from '../tensor.js'
import type { Rendezvous } from './rendezvous.js'

/** Those that a process at its end has to free from waiting. */
const alive = new Set<Communicator>()

// Before the streams are abandoned (lib/native.ts), which waits for what is running on them.
process.prependListener('exit', () => {
  for (const communicator of alive) communicator.abort(new ParallelError('ABORTED', 'the process ends'))
})

/**
 * What the ranks of a run do together: collectives on float32 or bfloat16 tensors, enqueued on a stream like ops. All
 * ranks make the same calls in the same order; every rank gets the same bits, on every run. A rank that is lost, or
 * does not arrive in time, rejects the stream's next wait with `RANK_LOST` or `COLLECTIVE_TIMEOUT`.
 */
export class Communicator implements Disposable {
  private constructor(
    readonly rank: number,
    readonly size: number,
    private readonly handle: CommunicatorHandle,
  ) {
    alive.add(this)
  }

  /**
   * Connects all ranks.
   * @param timeout seconds that a collective waits for the other ranks
   * @throws {OpenAlpacaError} `CONNECTION_FAILED`, or that of the rendezvous
   */
  static async connect(
    rendezvous: Rendezvous,
    device: Device,
    stream: Stream,
    { timeout = 600 }: { timeout?: number } = {},
  ): Promise<Communicator> {
    const { rank, size, address, lost } = rendezvous
    const handle = native.communicatorCreate(device.handle, rank, size, address, Math.ceil(1000 * timeout))
    const own = Buffer.from(native.communicatorAddress(handle)).toString('base64')
    const addresses = await rendezvous.exchange('communicator', own)
    const communicator = new Communicator(rank, size, handle)
    lost.addEventListener('abort', () => communicator.abort(lost.reason), { once: true })
    native.communicatorConnect(
      handle,
      stream.handle,
      addresses.map((text) => Buffer.from(text, 'base64')),
    )
    await stream.synchronize()
    return communicator
  }

  /** out = the `input` of all ranks, one behind the other; `input` may lie in its place in `out`. */
  allGather(stream: Stream, { out, input }: { out: Tensor; input: Tensor }): void {
    native.communicatorAllGather(this.handle, stream.handle, out.handle, input.handle)
  }

  /** out = this rank's part of the sum over the ranks of `input`; it may be that part of `input`. */
  reduceScatter(stream: Stream, { out, input }: { out: Tensor; input: Tensor }): void {
    native.communicatorReduceScatter(this.handle, stream.handle, out.handle, input.handle)
  }

  /** x = the sum of all ranks' x. */
  allReduce(stream: Stream, x: Tensor): void {
    native.communicatorAllReduce(this.handle, stream.handle, x.handle)
  }

  /** x = the x of rank `root`. */
  broadcast(stream: Stream, x: Tensor, root: number): void {
    native.communicatorBroadcast(this.handle, stream.handle, x.handle, root)
  }

  /** Ends when all ranks have come to it. */
  barrier(stream: Stream): void {
    native.communicatorBarrier(this.handle, stream.handle)
  }

  /** Ends what is running, and all that follows, with this error. */
  abort(error: { code: string; message: string }): void {
    native.communicatorAbort(this.handle, error.code, error.message)
  }

  dispose(): void {
    alive.delete(this)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** What a group of ranks needs of a communicator. */
export type Collectives = Pick<
  Communicator,
  'rank' | 'size' | 'allGather' | 'reduceScatter' | 'allReduce' | 'broadcast' | 'barrier' | 'abort' | 'dispose'
>
