/**
 * The only module that loads the addon: raw functions on opaque handles, as exported by binding/. Everything else in
 * lib/ uses the idiomatic classes of device.ts, tensor.ts and ops.ts.
 */
import nodeGypBuild from 'node-gyp-build'
import { addonAdvice } from './addon-advice.js'
import { NonFiniteError, OpenAlpacaError, ParallelError } from './errors.js'
import { packageRoot } from './version.js'

/** The number format of a tensor. */
export type DType = 'float32' | 'bfloat16' | 'float16' | 'int32'
/** Raw elements: bfloat16 and float16 are their bits in a Uint16Array. */
export type HostArray = Float32Array | Uint16Array | Int32Array | Uint8Array

declare const kind: unique symbol
/** An object that only the addon can create and read. */
type Handle<Kind extends string> = { readonly [kind]: Kind }
export type DeviceHandle = Handle<'device'>
export type StreamHandle = Handle<'stream'>
/** A point in a stream's work that another stream can wait for. */
export type EventHandle = Handle<'event'>
/** Recorded ops. */
export type GraphHandle = Handle<'graph'>
export type TensorHandle = Handle<'tensor'>
export type CommunicatorHandle = Handle<'communicator'>

/** A device's description of itself. */
export interface DeviceProperties {
  /** The chip's name. */
  name: string
  /** The selected instruction set, such as `avx512_bf16`. */
  isa: string
  /** Threads of a CPU, multiprocessors of a GPU. */
  units: number
  /** Whether bfloat16 matrix products run in hardware. */
  fastBfloat16: boolean
  /** The GPU's UUID; empty for the CPU. */
  id: string
  /** Bytes. */
  totalMemory: number
  /** Bytes that are currently unused. */
  freeMemory: number
}

interface Addon {
  setErrorFactory(factory: (code: string, message: string) => OpenAlpacaError): void
  deviceOpen(type: string): DeviceHandle
  deviceCount(type: string): number
  deviceProperties(device: DeviceHandle): DeviceProperties
  deviceLibraries(device: DeviceHandle): Record<string, string>
  deviceSetThreads(device: DeviceHandle, threads: number): void
  tensorCreate(device: DeviceHandle, dtype: DType, shape: readonly number[]): TensorHandle
  tensorView(tensor: TensorHandle, byteOffset: number, dtype: DType, shape: readonly number[]): TensorHandle
  tensorDispose(tensor: TensorHandle): void
  streamCreate(device: DeviceHandle): StreamHandle
  eventCreate(device: DeviceHandle): EventHandle
  streamWrite(stream: StreamHandle, tensor: TensorHandle, data: HostArray): void
  streamUpload(stream: StreamHandle, tensor: TensorHandle, data: HostArray): Promise<void>
  streamRead(stream: StreamHandle, tensor: TensorHandle, data: HostArray): Promise<void>
  streamTransfer(stream: StreamHandle, destination: TensorHandle, source: TensorHandle): Promise<void>
  streamSynchronize(stream: StreamHandle): Promise<void>
  streamRecord(stream: StreamHandle, event: EventHandle): void
  streamWait(stream: StreamHandle, event: EventHandle): void
  streamBeginCapture(stream: StreamHandle): void
  streamEndCapture(stream: StreamHandle): GraphHandle
  streamLaunch(stream: StreamHandle, graph: GraphHandle): void
  streamsAbandon(): void
  communicatorCreate(
    device: DeviceHandle,
    backend: 'nccl' | 'gloo',
    rank: number,
    size: number,
    hostname: string,
    timeoutMilliseconds: number,
  ): CommunicatorHandle
  communicatorAddress(communicator: CommunicatorHandle): Uint8Array
  communicatorConnect(communicator: CommunicatorHandle, addresses: Uint8Array[]): Promise<void>
  communicatorAllGather(c: CommunicatorHandle, stream: StreamHandle, out: TensorHandle, input: TensorHandle): void
  communicatorReduceScatter(c: CommunicatorHandle, stream: StreamHandle, out: TensorHandle, input: TensorHandle): void
  communicatorAllReduce(communicator: CommunicatorHandle, stream: StreamHandle, x: TensorHandle): void
  communicatorBroadcast(communicator: CommunicatorHandle, stream: StreamHandle, x: TensorHandle, root: number): void
  communicatorBarrier(communicator: CommunicatorHandle, stream: StreamHandle): void
  communicatorAbort(communicator: CommunicatorHandle, code: string, message: string): void
  ops: Record<string, (stream: StreamHandle, ...args: unknown[]) => void>
  opFields: Record<string, { name: string; access: 'read' | 'write' | 'update' | '' }[]>
}

const parallelCodes = new Set(['CONNECTION_FAILED', 'NOT_CONNECTED', 'RANK_LOST', 'COLLECTIVE_TIMEOUT', 'NCCL_ERROR'])

/** The error for an addon failure with this code. */
export function errorOf(code: string, message: string): OpenAlpacaError {
  if (code === 'NON_FINITE') return new NonFiniteError(message)
  return parallelCodes.has(code) ? new ParallelError(code, message) : new OpenAlpacaError(code, message)
}

function load(): Addon {
  // By default, OpenMP's threads spin for milliseconds while they wait for each other. With any other busy process,
  // that slows a training run to a tenth of its speed; some 50 µs cost nothing when it runs alone.
  if (!process.env.OMP_WAIT_POLICY) process.env.GOMP_SPINCOUNT ??= '10000'
  try {
    return nodeGypBuild(packageRoot) as Addon
  } catch (error) {
    const reason = (error as Error).message.split('\n')[0]!
    throw new OpenAlpacaError(
      'ADDON_NOT_FOUND',
      `the native addon of openalpaca-native could not be loaded: ${addonAdvice(packageRoot, reason)} (${reason})`,
      { cause: error },
    )
  }
}

export const native: Addon = load()
native.setErrorFactory(errorOf)

// process.exit() runs the destructors of libraries while streams may still be computing with them.
process.once('exit', () => native.streamsAbandon())
