/**
 * Moves tensors between weight files and device memory in pieces, so that the host holds only a few pieces at a time.
 */

import type { Stream } from '../device.js'
import { type CastLosses, countNonFinite } from '../formats/cast.js'
import { readAll } from '../io/stream.js'
import type { WeightSource } from '../io/weight-source.js'
import * as ops from '../ops.js'
import { bytesPerElement, type DType, type Tensor } from '../tensor.js'

/** Elements per piece. */
const pieceLength = 1 << 20

/**
 * Fills flat tensors from the file tensors of the same names, converting the dtype, several pieces at a time.
 * @param source its tensors have the targets' element counts and types that the device can convert
 */
export async function uploadTensors(
  source: WeightSource,
  targets: ReadonlyMap<string, Tensor>,
  signal?: AbortSignal,
): Promise<void> {
  const staging: Tensor[] = []
  const upload = async (name: string, byteOffset: number, chunk: Uint8Array) => {
    signal?.throwIfAborted()
    const target = targets.get(name)!
    const { device } = target
    const dtype = source.tensors.get(name)!.dtype as DType
    const count = chunk.byteLength / bytesPerElement(dtype)
    const dst = target.view([count], byteOffset / bytesPerElement(dtype))
    if (dtype === target.dtype) return await device.stream.upload(dst, chunk)
    const stage = staging.pop() ?? device.tensor('float32', [pieceLength])
    const src = stage.view([count], 0, dtype)
    const uploaded = device.stream.upload(src, chunk)
    ops.cast(device.stream, { dst, src })
    await uploaded
    staging.push(stage)
  }
  try {
    await readAll(source, targets.keys(), upload, { chunkBytes: pieceLength * bytesPerElement('float32') })
  } finally {
    for (const stage of staging) stage.dispose()
  }
}

/**
 * Yields a flat tensor's elements in `dtype`, piece by piece.
 * @param losses counts finite values that became infinite
 */
export async function* readPieces(
  tensor: Tensor,
  dtype: DType,
  losses: CastLosses = { overflows: 0 },
  stream = tensor.device.stream,
): AsyncGenerator<Uint8Array> {
  const { device } = tensor
  if (dtype === tensor.dtype) return yield* copyPieces(tensor, stream)
  using stage = device.tensor(dtype, [Math.min(pieceLength, tensor.length)])
  for (let start = 0; start < tensor.length; start += pieceLength) {
    const count = Math.min(pieceLength, tensor.length - start)
    const piece = stage.view([count])
    const source = tensor.view([count], start)
    ops.cast(stream, { dst: piece, src: source })
    const bytes = new Uint8Array(count * bytesPerElement(dtype))
    await stream.read(piece, bytes)
    if (countNonFinite(bytes, dtype) > 0) {
      const before = new Uint8Array(source.byteLength)
      await stream.read(source, before)
      losses.overflows += countNonFinite(bytes, dtype) - countNonFinite(before, tensor.dtype)
    }
    yield bytes
  }
}

async function* copyPieces(tensor: Tensor, stream: Stream): AsyncGenerator<Uint8Array> {
  for (let start = 0; start < tensor.length; start += pieceLength) {
    const piece = tensor.view([Math.min(pieceLength, tensor.length - start)], start)
    const bytes = new Uint8Array(piece.byteLength)
    await stream.read(piece, bytes)
    yield bytes
  }
}
