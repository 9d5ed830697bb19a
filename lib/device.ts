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

/** A kind of device. */
export type DeviceType = 'cpu' | 'cuda'

/** The state of a device type, from `backends`. */
export interface Backend extends Partial<DeviceProperties> {
  /** Its type, for `device` options. */
  device: DeviceType
  /** Whether it can be used here. */
  available: boolean
  /** The reason that it is unavailable. */
  reason?: string
  /** The reason as a code, such as `NO_CUDA_DRIVER`. */
  code?: string
  /**
   * Third-party libraries in use, `oneDNN`, `Gloo`, `cuBLASLt`, `NCCL`, with their versions; `not found`, or `not in
   * this build`.
   */
  libraries?: Record<string, string>
}

/** The devices that this package supports, whether they can be used here, and if not, why. */
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
 * The number of devices of a type that this process sees. Unlike opening one, it allocates no GPU memory.
 * @throws {OpenAlpacaError} for none, with a code and the reason
 */
export function countDevices(type: DeviceType): number {
  return native.deviceCount(type)
}

let gpu = 0

/** Selects the GPU for `cuda` among those that the process sees; call it before opening one. */
export function chooseGpu(number: number): void {
  if (opened.has('cuda')) throw new Error('a GPU has been opened already')
  gpu = number
}

const opened = new Map<DeviceType, Device>()

/**
 * Opens the device of a type; `auto` is `cuda` if available, else `cpu`. Returns a given device unchanged.
 * @throws {OpenAlpacaError} `DEVICE_UNAVAILABLE` for a device that is not in this build, `NO_CUDA_DRIVER` or another
 *   code for one that is not on this machine
 */
export function openDevice(type: DeviceType | 'auto' | Device = 'auto'): Device {
  if (type instanceof Device) return type
  if (type === 'auto') {
    try {
      return openDevice('cuda')
    } catch {
      return openDevice('cpu') // see `backends()` for why CUDA is unavailable
    }
  }
  let device = opened.get(type)
  if (!device) {
    device = new Device(type, native.deviceOpen(type === 'cuda' ? `cuda:${gpu}` : type))
    opened.set(type, device)
  }
  return device
}

/** Memory and streams. There is one object per device type and process, made by `openDevice`. */
export class Device {
  private defaultStream?: Stream
  /** The tensors made during the current `allocating` call. */
  private allocated?: Tensor[]

  /** @internal */
  constructor(
    /** `cpu` or `cuda`. */
    readonly type: DeviceType,
    /** @internal */
    readonly handle: DeviceHandle,
  ) {}

  /** The chip and its current memory use. */
  get properties(): DeviceProperties {
    return native.deviceProperties(this.handle)
  }

  /**
   * Third-party libraries in use, with their versions. Opens libraries that are not open yet, such as NCCL. @internal
   */
  get libraries(): Record<string, string> {
    return native.deviceLibraries(this.handle)
  }

  /** The CPU, for data that does not fit on this device. */
  get host(): Device {
    return openDevice('cpu')
  }

  /** Sets the maximum number of CPU threads per op; initially one per core. */
  setThreads(threads: number): void {
    native.deviceSetThreads(this.handle, threads)
  }

  /** bfloat16 if the device multiplies it in hardware, else float32. */
  get preferredDType(): 'bfloat16' | 'float32' {
    return this.properties.fastBfloat16 ? 'bfloat16' : 'float32'
  }

  /** The default stream. */
  get stream(): Stream {
    this.defaultStream ??= this.createStream()
    return this.defaultStream
  }

  /** Creates a stream whose work runs concurrently with that of other streams. */
  createStream(): Stream {
    return new Stream(native.streamCreate(this.handle))
  }

  /** Creates an event for `Stream.record` and `Stream.wait`. */
  createEvent(): EventHandle {
    return native.eventCreate(this.handle)
  }

  /**
   * Allocates uninitialized memory, row-major.
   * @throws {OpenAlpacaError} `OUT_OF_MEMORY` for a lack of memory
   */
  tensor(dtype: DType, shape: readonly number[]): Tensor {
    const tensor = new Tensor(this, dtype, shape, native.tensorCreate(this.handle, dtype, shape))
    this.allocated?.push(tensor)
    return tensor
  }

  /**
   * Runs `make`. If it throws, for example for lack of memory, the tensors that it has made are freed at once rather
   * than by the garbage collector, so that their memory is available again. @internal
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
 * Runs work in order and returns at once; `synchronize`, `read` and `upload` wait for it, without blocking the event
 * loop. After an op fails, the stream skips further work until the next wait, which rejects with the error.
 */
export class Stream {
  /** @internal */
  constructor(
    /** @internal */
    readonly handle: StreamHandle,
  ) {}

  /** @internal Enqueues an op of core/ops.h; lib/ops.ts has typed functions for them. */
  enqueue(op: string, args: object): void {
    const values = opFields.get(op)!.map((field) => {
      const value = (args as Record<string, unknown>)[field]
      return value instanceof Tensor ? value.handle : value
    })
    native.ops[op](this.handle, ...values)
  }

  /** Copies `data` now, and into the tensor in stream order. For small arrays. */
  write(tensor: Tensor, data: HostArray): void {
    native.streamWrite(this.handle, tensor.handle, data)
  }

  /** Copies `data` into the tensor without an intermediate copy; it must not change until the promise settles. */
  upload(tensor: Tensor, data: HostArray): Promise<void> {
    return native.streamUpload(this.handle, tensor.handle, data)
  }

  /** Fills `data`, which has the tensor's number of bytes. */
  read(tensor: Tensor, data: HostArray): Promise<void> {
    return native.streamRead(this.handle, tensor.handle, data)
  }

  /**
   * Copies between this stream's device and a CPU tensor, which must not change, or be used, until the promise settles;
   * both have the same dtype and length.
   */
  transfer(destination: Tensor, source: Tensor): Promise<void> {
    return native.streamTransfer(this.handle, destination.handle, source.handle)
  }

  /** Resolves when everything enqueued so far is done; rejects with any error on the stream since the last wait. */
  synchronize(): Promise<void> {
    return native.streamSynchronize(this.handle)
  }

  /** The event occurs when everything enqueued so far is done. */
  record(event: EventHandle): void {
    native.streamRecord(this.handle, event)
  }

  /** Work enqueued from here on waits for the event's last recording. */
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

  /** Runs all ops of a graph. */
  launch(graph: GraphHandle): void {
    native.streamLaunch(this.handle, graph)
  }
}
