import type { OpenAlpacaError } from './errors.js'
import {
  type DeviceHandle,
  type DeviceProperties,
  type DType,
  type EventHandle,
  type GraphHandle,
  type HostArray,
  native,
  type StreamHandle,
} from './native.js'
import { Tensor } from './tensor.js'

/** What computes. */
export type DeviceType = 'cpu' | 'cuda'

/** What `backends` says of a device type. */
export interface Backend extends Partial<DeviceProperties> {
  /** Its type, which `device` options take. */
  device: DeviceType
  /** Whether it can be used here. */
  available: boolean
  /** Why it is not available, in words. */
  reason?: string
  /** The same for programs, such as `NO_CUDA_DRIVER`. */
  code?: string
  /**
   * What others wrote and it runs on: `oneDNN`, `Gloo`, `cuBLASLt`, `NCCL`, with the version that is used; `not found`, or
   * `not in this build`.
   */
  libraries?: Record<string, string>
}

/** The devices that this package knows, whether they can be used here, and if not, why. */
export function backends(): Backend[] {
  return (['cpu', 'cuda'] as const).map((type) => {
    try {
      const { properties, libraries } = openDevice(type)
      return { device: type, available: true, ...properties, libraries }
    } catch (error) {
      const { message, code } = error as OpenAlpacaError
      return { device: type, available: false, reason: message, code }
    }
  })
}

/**
 * How many devices of a type this process sees. Unlike opening one it takes no memory of a GPU.
 * @throws {OpenAlpacaError} a code and the reason, where there is none
 */
export function countDevices(type: DeviceType): number {
  return native.deviceCount(type)
}

let gpu = 0

/** Makes `cuda` the GPU of this number among those that the process sees; to be called before one is opened. */
export function chooseGpu(number: number): void {
  if (opened.has('cuda')) throw new Error('a GPU has been opened already')
  gpu = number
}

const opened = new Map<DeviceType, Device>()

/**
 * The device of a type; `auto` is `cuda` where there is one, else `cpu`. A device itself is returned as it is.
 * @throws {OpenAlpacaError} whose code and message tell why it cannot be used: `DEVICE_UNAVAILABLE` where the build has no
 *   such device, `NO_CUDA_DRIVER` and others where the machine has none
 */
export function openDevice(type: DeviceType | 'auto' | Device = 'auto'): Device {
  if (type instanceof Device) return type
  if (type === 'auto') {
    try {
      return openDevice('cuda')
    } catch {
      return openDevice('cpu') // why there is no other, `backends` tells
    }
  }
  let device = opened.get(type)
  if (!device) {
    device = new Device(type, native.deviceOpen(type === 'cuda' ? `cuda:${gpu}` : type))
    opened.set(type, device)
  }
  return device
}

/** Memory and streams. One object a device type and process: `openDevice` makes it. */
export class Device {
  private defaultStream?: Stream
  /** The tensors made in the present `allocating`. */
  private allocated?: Tensor[]

  /** @internal */
  constructor(
    /** `cpu` or `cuda`. */
    readonly type: DeviceType,
    /** @internal */
    readonly handle: DeviceHandle,
  ) {}

  /** The chip, and its memory at this moment. */
  get properties(): DeviceProperties {
    return native.deviceProperties(this.handle)
  }

  /** What others wrote and it runs on, with versions. Opens what is not open yet, such as NCCL. @internal */
  get libraries(): Record<string, string> {
    return native.deviceLibraries(this.handle)
  }

  /** The CPU, for what this device has no room for. */
  get host(): Device {
    return openDevice('cpu')
  }

  /** How many threads an op may use on the CPU; one per core at first. */
  setThreads(threads: number): void {
    native.deviceSetThreads(this.handle, threads)
  }

  /** bfloat16 where the device multiplies it in hardware, else float32. */
  get preferredDType(): 'bfloat16' | 'float32' {
    return this.properties.fastBfloat16 ? 'bfloat16' : 'float32'
  }

  /** The stream that is used where none is named. */
  get stream(): Stream {
    this.defaultStream ??= this.createStream()
    return this.defaultStream
  }

  /** A stream of its own: its work runs beside that of other streams. */
  createStream(): Stream {
    return new Stream(native.streamCreate(this.handle))
  }

  /** A mark for `Stream.record` and `Stream.wait`. */
  createEvent(): EventHandle {
    return native.eventCreate(this.handle)
  }

  /**
   * Uninitialised memory, row-major.
   * @throws {OpenAlpacaError} `OUT_OF_MEMORY`
   */
  tensor(dtype: DType, shape: readonly number[]): Tensor {
    const tensor = new Tensor(this, dtype, shape, native.tensorCreate(this.handle, dtype, shape))
    this.allocated?.push(tensor)
    return tensor
  }

  /**
   * Runs `make`. If it throws, such as for lack of memory, the tensors that it has made so far are freed at once rather than
   * when they are collected, so that there is room for what comes next. @internal
   */
  allocating<T>(make: () => T): T {
    const outer = this.allocated
    const own: Tensor[] = []
    this.allocated = own
    try {
      const made = make()
      outer?.push(...own)
      return made
    } catch (error) {
      for (const tensor of own) tensor.dispose()
      throw error
    } finally {
      this.allocated = outer
    }
  }
}

const camelCase = (name: string) => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())

/** The arguments of each op of core/ops.h, in their order, as lib/ops.ts spells them. */
const opFields = new Map(
  Object.entries(native.opFields).map(([op, fields]) => [op, fields.map(({ name }) => camelCase(name))]),
)

/** @internal The tensor arguments of an op that it both reads and writes. */
export function updatedArguments(op: string): string[] {
  return native.opFields[op].filter(({ access }) => access === 'update').map(({ name }) => camelCase(name))
}

/**
 * Takes work in order and returns at once; `synchronize`, `read` and `upload` wait for it, without blocking the event
 * loop. An op that fails makes the stream pass over what follows, until the next wait, which rejects with the error.
 */
export class Stream {
  /** @internal */
  constructor(
    /** @internal */
    readonly handle: StreamHandle,
  ) {}

  /** @internal An op of core/ops.h; lib/ops.ts has them with their arguments. */
  enqueue(op: string, args: object): void {
    const values = opFields.get(op)!.map((field) => {
      const value = (args as Record<string, unknown>)[field]
      return value instanceof Tensor ? value.handle : value
    })
    native.ops[op](this.handle, ...values)
  }

  /** Copies `data` now, and into the tensor when its turn comes. For small arrays. */
  write(tensor: Tensor, data: HostArray): void {
    native.streamWrite(this.handle, tensor.handle, data)
  }

  /** Copies `data` into the tensor without a copy between; it must not change until the promise is settled. */
  upload(tensor: Tensor, data: HostArray): Promise<void> {
    return native.streamUpload(this.handle, tensor.handle, data)
  }

  /** Fills `data`, which has the tensor's number of bytes. */
  read(tensor: Tensor, data: HostArray): Promise<void> {
    return native.streamRead(this.handle, tensor.handle, data)
  }

  /**
   * Copies between this stream's device and a tensor of the CPU, which must not change, or be used, until the promise is
   * settled; both have the same dtype and length.
   */
  transfer(destination: Tensor, source: Tensor): Promise<void> {
    return native.streamTransfer(this.handle, destination.handle, source.handle)
  }

  /** Resolves when everything enqueued so far is done; rejects with what went wrong on the stream since the last wait. */
  synchronize(): Promise<void> {
    return native.streamSynchronize(this.handle)
  }

  /** The event comes when everything enqueued so far is done. */
  record(event: EventHandle): void {
    native.streamRecord(this.handle, event)
  }

  /** What is enqueued from here on waits for the event, as it was last recorded. */
  wait(event: EventHandle): void {
    native.streamWait(this.handle, event)
  }

  /** Records the ops that `work` enqueues, without running them, as a graph for `launch`. */
  capture(work: () => void): GraphHandle {
    native.streamBeginCapture(this.handle)
    try {
      work()
    } catch (error) {
      native.streamEndCapture(this.handle)
      throw error
    }
    return native.streamEndCapture(this.handle)
  }

  /** Runs the ops of a graph, in one go. */
  launch(graph: GraphHandle): void {
    native.streamLaunch(this.handle, graph)
  }
}
