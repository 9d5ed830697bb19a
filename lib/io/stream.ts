import type { WeightSource } from './weight-source.js'

export interface ReadAllOptions {
  /** Concurrent reads. The default keeps every thread of libuv's pool (four) busy while others are consumed. */
  concurrency?: number
  /** Bytes per piece, a multiple of 8. Memory: `concurrency × chunkBytes`. */
  chunkBytes?: number
}

/**
 * Consumes a piece of a tensor: the bytes from `byteOffset` of its contiguous row-major form. The consumer owns the
 * chunk until its promise settles; it is then reused.
 */
export type ChunkConsumer = (name: string, byteOffset: number, chunk: Uint8Array) => Promise<void> | void

/**
 * Reads tensors in pieces, several at once and in disk order. Pieces of complete elements are passed to `consume` in no
 * particular order, several at a time; a tensor without elements has none. The first error stops the reading and is
 * thrown after all pending reads have ended.
 */
export async function readAll(
  source: WeightSource,
  names: Iterable<string>,
  consume: ChunkConsumer,
  { concurrency = 6, chunkBytes = 4 << 20 }: ReadAllOptions = {},
): Promise<void> {
  const pieces = piecesOf(source, names, chunkBytes)
  let stopped = false
  const work = async () => {
    let buffer: Uint8Array | undefined
    while (!stopped) {
      const { value: piece, done } = pieces.next()
      if (done) return
      buffer ??= Buffer.allocUnsafeSlow(chunkBytes)
      const chunk = buffer.subarray(0, piece.length)
      await source.read(piece.name, piece.byteOffset, chunk)
      if (!stopped) await consume(piece.name, piece.byteOffset, chunk)
    }
  }
  const workers = Array.from({ length: concurrency }, () =>
    work().catch((error) => {
      stopped = true
      throw error
    }),
  )
  const failed = (await Promise.allSettled(workers)).find((result) => result.status === 'rejected')
  if (failed) throw failed.reason
}

function* piecesOf(source: WeightSource, names: Iterable<string>, chunkBytes: number) {
  if (!(chunkBytes > 0 && chunkBytes % 8 === 0)) throw new RangeError(`chunkBytes ${chunkBytes} is not a multiple of 8`)
  const wanted = new Set(names)
  for (const name of wanted) if (!source.tensors.has(name)) throw new RangeError(`there is no tensor ${name} to read`)
  for (const { name, bytes } of source.tensors.values()) {
    if (!wanted.has(name)) continue
    for (let byteOffset = 0; byteOffset < bytes; byteOffset += chunkBytes) {
      yield { name, byteOffset, length: Math.min(chunkBytes, bytes - byteOffset) }
    }
  }
}

/** Pieces to read ahead of the one in use. */
const READ_AHEAD = 3

/**
 * The bytes of one tensor in order, for a writer. The next pieces are read while one is used; the consumer owns a piece
 * until it requests the next.
 */
export async function* tensorChunks(
  source: WeightSource,
  name: string,
  chunkBytes = 4 << 20,
): AsyncGenerator<Uint8Array, void, undefined> {
  const buffers: Uint8Array[] = []
  const underWay: Promise<Uint8Array>[] = []
  const read = async (piece: { byteOffset: number; length: number }, turn: number) => {
    buffers[turn] ??= Buffer.allocUnsafeSlow(piece.length)
    const chunk = buffers[turn].subarray(0, piece.length)
    await source.read(name, piece.byteOffset, chunk)
    return chunk
  }
  let turn = 0
  try {
    for (const piece of piecesOf(source, [name], chunkBytes)) {
      const next = read(piece, turn)
      next.catch(() => {}) // it may fail while the consumer has an earlier piece; awaiting it reports the error
      underWay.push(next)
      turn = (turn + 1) % (READ_AHEAD + 1)
      if (underWay.length > READ_AHEAD) yield await underWay.shift()!
    }
    while (underWay.length > 0) yield await underWay.shift()!
  } finally {
    await Promise.allSettled(underWay) // a consumer that stops early leaves reads pending
  }
}

/** All bytes of one small tensor. */
export async function readTensor(source: WeightSource, name: string): Promise<Buffer> {
  const bytes = Buffer.alloc(source.tensors.get(name)?.bytes ?? 0)
  await source.read(name, 0, bytes)
  return bytes
}
