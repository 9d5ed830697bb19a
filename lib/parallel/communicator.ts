import type { Device, Stream } from '../device.js'
import { ParallelError } from '../errors.js'
import { type CommunicatorHandle, native } from '../native.js'
import type { Tensor } from '../tensor.js'
import type { Rendezvous } from './rendezvous.js'

/** Communicators to abort at exit, so that the process does not wait for them. */
const alive = new Set<Communicator>()

// Prepended, so that it runs before lib/native.ts abandons the streams, which waits for running work.
process.prependListener('exit', () => {
  for (const communicator of alive) communicator.abort(new ParallelError('ABORTED', 'the process is exiting'))
})

/** The collectives library: NCCL between GPUs; Gloo over TCP, through host memory, on any device. */
export type Backend = 'nccl' | 'gloo'

interface ConnectOptions {
  /** Seconds that a collective waits for the other ranks. @default 600 */
  timeout?: number
  /** @default 'auto': NCCL if each rank has a separate GPU, else Gloo */
  backend?: Backend | 'auto'
}

/**
 * Collectives between the ranks of a run, on float32 or bfloat16 tensors, enqueued on a stream like ops. All ranks make
 * the same calls in the same order; every rank gets bit-identical results, on every run. If a rank is lost or does not
 * arrive in time, the stream's next wait rejects with `RANK_LOST` or `COLLECTIVE_TIMEOUT`.
 */
export class Communicator implements Disposable {
  private constructor(
    readonly rank: number,
    readonly size: number,
    readonly backend: Backend,
    private readonly handle: CommunicatorHandle,
  ) {
    alive.add(this)
  }

  /**
   * Connects all ranks.
   * @throws {OpenAlpacaError} `CONNECTION_FAILED`, `GPU_SHARED` for NCCL with two ranks on one GPU,
   *   `LIBRARY_NOT_FOUND`, or an error of the rendezvous
   */
  static async connect(
    rendezvous: Rendezvous,
    device: Device,
    { timeout = 600, backend: asked = 'auto' }: ConnectOptions = {},
  ): Promise<Communicator> {
    const { rank, size, address, lost } = rendezvous
    const backend = await chooseBackend(rendezvous, device, asked)
    // Otherwise NCCL connects when a kind of collective is first enqueued, which then waits for the other ranks.
    if (backend === 'nccl') process.env.NCCL_RUNTIME_CONNECT ??= '0'
    const milliseconds = Math.ceil(1000 * timeout)
    const handle = native.communicatorCreate(device.handle, backend, rank, size, address, milliseconds)
    const own = Buffer.from(native.communicatorAddress(handle)).toString('base64')
    const addresses = await rendezvous.exchange('communicator', own)
    lost.throwIfAborted()
    const communicator = new Communicator(rank, size, backend, handle)
    lost.addEventListener('abort', () => communicator.abort(lost.reason), { once: true })
    const bytes = addresses.map((text) => Buffer.from(text, 'base64'))
    await native.communicatorConnect(handle, bytes)
    return communicator
  }

  /** Concatenates every rank's `input` into `out`; `input` may alias this rank's slice of `out`. */
  allGather(stream: Stream, { out, input }: { out: Tensor; input: Tensor }): void {
    native.communicatorAllGather(this.handle, stream.handle, out.handle, input.handle)
  }

  /** Writes this rank's slice of the sum of all ranks' `input` to `out`, which may alias that slice of `input`. */
  reduceScatter(stream: Stream, { out, input }: { out: Tensor; input: Tensor }): void {
    native.communicatorReduceScatter(this.handle, stream.handle, out.handle, input.handle)
  }

  /** Replaces x with the sum of all ranks' x. */
  allReduce(stream: Stream, x: Tensor): void {
    native.communicatorAllReduce(this.handle, stream.handle, x.handle)
  }

  /** Replaces x with the x of rank `root`. */
  broadcast(stream: Stream, x: Tensor, root: number): void {
    native.communicatorBroadcast(this.handle, stream.handle, x.handle, root)
  }

  /** Completes when all ranks have reached it. */
  barrier(stream: Stream): void {
    native.communicatorBarrier(this.handle, stream.handle)
  }

  /** Fails all running and future collectives with this error. */
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

/**
 * Chooses the same backend on all ranks.
 * @throws {ParallelError} `GPU_SHARED` or `UNSUPPORTED` for an unusable choice
 */
async function chooseBackend(rendezvous: Rendezvous, device: Device, asked: Backend | 'auto'): Promise<Backend> {
  const { id, name } = device.properties
  await rendezvous.agree({ 'the type of device': device.type })
  const ids = await rendezvous.exchange('devices', id)
  if (asked === 'gloo' || (asked === 'auto' && device.type === 'cpu')) return 'gloo'
  if (device.type === 'cpu') throw new ParallelError('UNSUPPORTED', 'NCCL is for GPUs: use --backend gloo with the CPU')
  const second = ids.findIndex((other, rank) => ids.indexOf(other) < rank)
  if (second < 0) return 'nccl'
  if (asked === 'auto') return 'gloo'
  throw new ParallelError(
    'GPU_SHARED',
    `ranks ${ids.indexOf(ids[second])} and ${second} of ${ids.length} share one GPU (${name}), which NCCL refuses: start ` +
      'as many ranks as there are GPUs, or use --backend gloo, which is slower',
  )
}

/** The part of a communicator that a group of ranks uses. */
export type Collectives = Pick<
  Communicator,
  'rank' | 'size' | 'allGather' | 'reduceScatter' | 'allReduce' | 'broadcast' | 'barrier' | 'abort' | 'dispose'
>
