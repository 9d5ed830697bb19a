/**
 * The optimizer's update on the CPU, which holds masters and moments (Ren et al. 2021, ZeRO-Offload, arXiv:2101.06840).
 * For each unit, the gradients are copied to the host and used, and the new weights are copied back. The update of a
 * unit overlaps the transfers of the next unit's gradients and the previous unit's weights.
 */
import type { Stream } from '../device.js'
import type { Parameters } from '../model/parameters.js'
import type { EventHandle } from '../native.js'
import type { DType, Tensor } from '../tensor.js'

/** Updates a unit with the gradients in `grad`; rounds the new masters to `weights`, if given. */
export type UpdateUnit = (stream: Stream, unit: number, grad: Tensor, weights: Tensor | undefined) => void

export class HostUpdate implements Disposable {
  /** Two buffers, used alternately. */
  private readonly gradients: Tensor[]
  private readonly rounded?: Tensor[]
  private readonly down: Stream
  private readonly up: Stream
  private readonly ready: EventHandle

  constructor(private readonly parameters: Parameters) {
    const { device, masterDevice, buffers, dtype } = parameters
    const longest = Math.max(...buffers.map(({ length }) => length))
    const pair = (type: DType) => [0, 1].map(() => masterDevice.tensor(type, [longest]))
    this.gradients = pair('float32')
    if (dtype !== 'float32') this.rounded = pair(dtype)
    this.down = device.createStream()
    this.up = device.createStream()
    this.ready = device.createEvent()
  }

  /** @param gradients those that this rank owns, complete when the device's stream reaches this point */
  async run(gradients: Tensor[], update: UpdateUnit): Promise<void> {
    const { device, masterDevice, buffers, masters } = this.parameters
    const { stream } = masterDevice
    device.stream.record(this.ready)
    this.down.wait(this.ready)
    this.up.wait(this.ready)
    const room = (pair: Tensor[], unit: number) => pair[unit % 2].view([buffers[unit].length])
    const fetch = (unit: number) => this.down.transfer(room(this.gradients, unit), gradients[unit])
    const copies: Promise<void>[] = []
    const start = (copy: Promise<void>) => {
      copies.push(copy)
      copy.catch(() => {}) // awaited below, and may fail before
      return copy
    }
    try {
      let arriving = start(fetch(0))
      let leaving: Promise<void> | undefined
      for (const [unit, buffer] of buffers.entries()) {
        await arriving
        if (unit + 1 < buffers.length) arriving = start(fetch(unit + 1))
        const rounded = this.rounded && room(this.rounded, unit)
        update(stream, unit, room(this.gradients, unit), rounded)
        await stream.synchronize()
        await leaving // the next unit rounds into the same buffer
        leaving = start(this.up.transfer(buffer, rounded ?? masters[unit]))
      }
    } finally {
      await Promise.allSettled(copies)
    }
    await Promise.all(copies)
  }

  dispose(): void {
    for (const tensor of [...this.gradients, ...(this.rounded ?? [])]) tensor.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
