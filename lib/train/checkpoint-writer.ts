/**
 * Writes the checkpoints of a run in the background: the state is copied to host memory, and training continues to
 * change it during the write. There is a single copy, so the next checkpoint waits for this one.
 */
import { type Device, openDevice, type Stream } from '../device.js'
import type { Tensor } from '../tensor.js'
import {
  type CheckpointState,
  checkpointBytes,
  type StateCopy,
  saveCheckpoint,
  stateTensors,
  writesShard,
} from './checkpoint.js'

interface Options {
  savePath: string
  keepLast: number
  /** Called when a checkpoint is complete at `path`; `seconds` since it was begun. */
  onWritten(event: { step: number; path: string; bytes: number; seconds: number }): void
}

export class CheckpointWriter implements Disposable {
  private readonly host: Device
  /** Reads the copy; training may keep the host's default stream busy. */
  private readonly stream: Stream
  private copies = new Map<string, Tensor>()
  private writing?: Promise<void>
  private failure?: { error: unknown }

  constructor(private readonly options: Options) {
    this.host = openDevice('cpu')
    this.stream = this.host.createStream()
  }

  /** Writes a checkpoint, after any write in progress. */
  async write(state: CheckpointState): Promise<void> {
    await this.finish()
    await this.save(state)
  }

  /** Copies the state and writes it in the background. */
  async begin(state: CheckpointState): Promise<void> {
    await this.finish()
    if (writesShard(state)) await this.copy(state)
    this.writing = this.save(state, { tensors: this.copies, stream: this.stream }).catch((error) => {
      this.failure = { error }
    })
  }

  /** @throws {Error} for a failure of the checkpoint in progress */
  check(): void {
    const { failure } = this
    this.failure = undefined
    if (failure) throw failure.error
  }

  /**
   * Waits for the checkpoint in progress.
   * @throws {Error} as `check` does
   */
  async finish(): Promise<void> {
    await this.writing
    this.writing = undefined
    this.check()
  }

  private async save(state: CheckpointState, copy?: StateCopy): Promise<void> {
    const { savePath, keepLast, onWritten } = this.options
    const start = performance.now()
    const path = await saveCheckpoint(savePath, state, { keepLast, copy })
    const seconds = (performance.now() - start) / 1000
    onWritten({ step: state.step, path, bytes: await checkpointBytes(path), seconds })
  }

  private async copy(state: CheckpointState): Promise<void> {
    await state.parameters.device.stream.synchronize()
    for (const [name, tensor] of stateTensors(state)) {
      const copy = this.copies.get(name) ?? this.host.tensor(tensor.dtype, tensor.shape)
      this.copies.set(name, copy)
      await tensor.device.stream.transfer(copy, tensor)
    }
  }

  dispose(): void {
    for (const copy of this.copies.values()) copy.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
