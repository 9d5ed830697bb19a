import { constants } from 'node:buffer'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { CheckpointError } from '../../errors.js'
import { forError, formatBytes } from '../../format.js'
import { DTYPE_BYTES, type TensorInfo, tensorBytes, tensorForRead, type WeightSource } from '../../io/weight-source.js'
import { partOfDistributed } from '../foreign.js'
import { type HandlePool, WeightFile } from '../weight-file.js'
import { PickleCutShort, unpickle } from './pickle.js'
import { findStateDict } from './state-dict.js'
import { gather, isContiguous, spanOf } from './strided.js'
import { TorchObjects, type TorchTensor } from './torch-objects.js'
import { readZipEntries } from './zip.js'

const MAX_PICKLE_BYTES = 100_000_000
const GATHER_BYTES = 1 << 18
const ZIP_START = Buffer.from('PK\x03\x04', 'latin1')
/** Pickle protocol 2, LONG1 of ten bytes, 0x1950a86a20f9469cfc6c. */
const LEGACY_START = Buffer.from('80028a0a6cfc9c46f9206aa85019', 'hex')

/** The contents of a torch file: an object with tensors somewhere in it, and the offset of each storage's bytes. */
interface TorchFile {
  readonly root: unknown
  readonly storageStart: ReadonlyMap<string, number>
}

/** A file written by torch.save, with any object of plain containers and tensors in it. */
export interface TorchObject {
  /** Dictionaries are Maps, lists and tuples arrays, and objects of any class InertObjects. */
  readonly root: unknown
  /** Tensors of the object under names chosen by the caller, to be read from the file. */
  source(tensors: Iterable<[name: string, tensor: TorchTensor]>): WeightSource
  close(): Promise<void>
}

/**
 * Opens a state dict written by torch.save, in the zip form or the legacy form (before torch 1.6), also one that a
 * trainer has wrapped. Nothing in the file is executed; the values stay in the file until they are read. Views and
 * transposed tensors are read as the equivalent contiguous tensors, tied ones under each of their names.
 * @throws {CheckpointError} for a file that is invalid or has unsupported contents, with its name and the reason
 */
export async function openTorchBin(path: string, pool?: HandlePool): Promise<WeightSource> {
  const object = await openTorchObject(path, pool)
  try {
    return object.source(findStateDict(path, object.root))
  } catch (error) {
    await object.close()
    throw error
  }
}

/** `openTorchBin` for a file that holds more than a state dict. */
export async function openTorchObject(path: string, pool?: HandlePool): Promise<TorchObject> {
  const file = await WeightFile.open(path, pool)
  try {
    const { root, storageStart } = await readTorchFile(file)
    return {
      root,
      source: (tensors) => new TorchSource(file, tensors, storageStart),
      close: () => file.close(),
    }
  } catch (error) {
    await file.close()
    throw error
  }
}

async function readTorchFile(file: WeightFile): Promise<TorchFile> {
  const distributed = partOfDistributed(file.path)
  if (distributed) throw new CheckpointError(distributed)
  const start = await file.readStart(512)
  if (start.subarray(0, ZIP_START.length).equals(ZIP_START)) return readZipForm(file)
  if (start.subarray(0, LEGACY_START.length).equals(LEGACY_START)) return readLegacyForm(file)
  if (start.toString('latin1', 257, 262) === 'ustar') {
    throw new CheckpointError(`${file.path} is in torch's tar form of 2016; load and save it with torch before 2.6`)
  }
  throw new CheckpointError(`${file.path} was not written by torch.save; download or copy it again`)
}

async function readZipForm(file: WeightFile): Promise<TorchFile> {
  const entries = await readZipEntries(file)
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name))
  if (pickles.length !== 1) {
    throw new CheckpointError(`${file.path} is a zip file with ${pickles.length} data.pkl, not a torch file`)
  }
  const prefix = pickles[0]!.slice(0, -'data.pkl'.length)
  const order = entries.get(`${prefix}byteorder`)
  if (order && (await readBytes(file, order.start, Math.min(order.size, 6))).toString('latin1') !== 'little') {
    throw new CheckpointError(`${file.path} was written on a big-endian machine; load and save it with torch there`)
  }
  const { start, size } = entries.get(pickles[0]!)!
  if (size > MAX_PICKLE_BYTES) throw tooLargePickle(file, size)
  const objects = new TorchObjects(file.path)
  const { value: root } = unpickle(await readBytes(file, start, size), unpickleOptions(file, objects))

  const storageStart = new Map<string, number>()
  for (const storage of objects.storages.values()) {
    const entry = entries.get(`${prefix}data/${storage.key}`)
    if (!entry || entry.size < storage.bytes) {
      const there = entry ? `has ${entry.size} of its ${storage.bytes} bytes` : 'is missing'
      throw new CheckpointError(
        `${file.path} is not whole: storage ${forError(storage.key)} ${there}; download or copy it again`,
      )
    }
    storageStart.set(storage.key, entry.start)
  }
  return { root, storageStart }
}

/** Five pickles (magic number, protocol, system, the object, storage keys), then a count and the bytes for each key. */
async function readLegacyForm(file: WeightFile): Promise<TorchFile> {
  const { root, keys, end, objects } = await readLegacyPickles(file, 1 << 20)
  const storageStart = new Map<string, number>()
  let at = end
  for (const key of keys) {
    const storage = objects.storages.get(key)
    const count = (await readBytes(file, at, 8)).readBigInt64LE()
    if (!storage || count * BigInt(storage.elementBytes) !== BigInt(storage.bytes)) {
      throw new CheckpointError(`${file.path} has ${count} elements in storage ${forError(key)}, and promised others`)
    }
    storageStart.set(key, at + 8)
    at += 8 + storage.bytes
    if (at > file.size) throw file.cutShort(at)
  }
  for (const key of objects.storages.keys()) {
    if (!storageStart.has(key))
      throw new CheckpointError(`${file.path} is missing the values of storage ${forError(key)}`)
  }
  return { root, storageStart }
}

/** Their length is not known in advance: reads a piece of the file, and a longer one if it is too short. */
async function readLegacyPickles(file: WeightFile, length: number) {
  const bytes = await file.readStart(length)
  const objects = new TorchObjects(file.path)
  const values: unknown[] = []
  let end = 0
  try {
    while (values.length < 5) {
      const pickle = unpickle(bytes.subarray(end), unpickleOptions(file, objects))
      values.push(pickle.value)
      end += pickle.end
    }
  } catch (error) {
    if (!(error instanceof PickleCutShort) || length >= file.size) throw error
    if (length >= MAX_PICKLE_BYTES) throw tooLargePickle(file, length)
    return readLegacyPickles(file, 8 * length)
  }
  const [, protocol, system, root, keys] = values
  if (protocol !== 1001 || !(system instanceof Map) || system.get('little_endian') !== true) {
    throw new CheckpointError(`${file.path} has an unknown protocol or byte order; load and save it with torch`)
  }
  if (!Array.isArray(keys) || !keys.every((key) => typeof key === 'string') || new Set(keys).size < keys.length) {
    throw new CheckpointError(`${file.path} has a damaged list of storages; download or copy it again`)
  }
  return { root, keys: keys as string[], end, objects }
}

function unpickleOptions(file: WeightFile, objects: TorchObjects) {
  return {
    source: file.path,
    findGlobal: (name: string) => objects.findGlobal(name),
    loadPersistent: (id: unknown) => objects.loadPersistent(id),
  }
}

function tooLargePickle(file: WeightFile, size: number): CheckpointError {
  return new CheckpointError(`${file.path} describes its tensors in more than ${formatBytes(size)}, which is refused`)
}

async function readBytes(file: WeightFile, position: number, length: number): Promise<Buffer> {
  if (position + length > file.size) throw file.cutShort(position + length)
  const bytes = Buffer.alloc(length)
  await file.read(position, bytes)
  return bytes
}

class TorchSource implements WeightSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly #placed = new Map<string, { tensor: TorchTensor; storageStart: number }>()
  /** The last strided tensor that was read: its pieces come in several reads, each of which may need all of it. */
  #span: { name: string; bytes: Promise<Uint8Array> } | undefined

  constructor(
    private readonly file: WeightFile,
    tensors: Iterable<[name: string, tensor: TorchTensor]>,
    storageStart: ReadonlyMap<string, number>,
  ) {
    for (const [name, tensor] of tensors) {
      this.#placed.set(name, { tensor, storageStart: storageStart.get(tensor.storage.key)! })
    }
    const start = (name: string) => {
      const { tensor, storageStart } = this.#placed.get(name)!
      return storageStart + spanOf(tensor).start
    }
    const names = [...this.#placed.keys()].sort((a, b) => start(a) - start(b))
    const views = new Map<string, string>()
    this.tensors = new Map(names.map((name) => [name, this.#describe(name, views)]))
  }

  async read(name: string, byteOffset: number, into: Uint8Array): Promise<void> {
    tensorForRead(this.tensors, name, byteOffset, into.length)
    const { tensor, storageStart } = this.#placed.get(name)!
    if (isContiguous(tensor)) return this.file.read(storageStart + spanOf(tensor).start + byteOffset, into)
    if (this.#span?.name !== name) this.#span = { name, bytes: this.#readSpan(name) }
    const span = await this.#span.bytes
    for (let at = 0; at < into.length; at += GATHER_BYTES) {
      const first = (byteOffset + at) / DTYPE_BYTES[tensor.dtype]
      gather(tensor, span, first, into.subarray(at, at + GATHER_BYTES))
      await nextTurn() // gathering is synchronous: let timers run in between
    }
  }

  async close(): Promise<void> {
    this.#span = undefined
    await this.file.close()
  }

  async #readSpan(name: string): Promise<Uint8Array> {
    const { tensor, storageStart } = this.#placed.get(name)!
    const { start, length } = spanOf(tensor)
    if (length > constants.MAX_LENGTH) {
      throw new CheckpointError(
        `${this.file.path} holds ${name} as a view of ${formatBytes(length)}, too much to reorder; save it as a contiguous tensor`,
      )
    }
    return readBytes(this.file, storageStart + start, length)
  }

  /** @param views the name of the first tensor that is this view of its storage */
  #describe(name: string, views: Map<string, string>): TensorInfo {
    const { dtype, shape, strides, offset, storage } = this.#placed.get(name)!.tensor
    const bytes = tensorBytes(shape, dtype)
    if (bytes === undefined) throw new CheckpointError(`${this.file.path} has a tensor ${name} of an impossible size`)
    const view = [storage.key, dtype, offset, shape.join(), strides.join()].join('|')
    const sameAs = views.get(view)
    if (sameAs === undefined) views.set(view, name)
    return { name, dtype, shape, bytes, ...(sameAs !== undefined && bytes > 0 && { sameAs }) }
  }
}
