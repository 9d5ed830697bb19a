/** Transformations of tensors between files: order, names, types. */

import type { TensorToWrite } from '../io/file-sink.js'
import { tensorChunks } from '../io/stream.js'
import type { WeightDType, WeightSource } from '../io/weight-source.js'
import { type CastDType, type CastLosses, castChunks, isCastable } from './cast.js'
import { sortAsStateDict } from './names.js'
import type { Overflows } from './overflows.js'

export interface TransformOptions {
  /** The type for floating-point tensors; other tensors are unchanged. Defaults to each tensor's type. */
  dtype?: CastDType
  /** The name to write a tensor under; undefined skips it. Defaults to its name. */
  rename?(name: string): string | undefined
  /** Ties of which only the first tensor is written, for configs from which a model derives the others. */
  dropTied?(name: string): boolean
  /** Writes tied tensors separately, for formats that cannot share a storage. */
  untie?: boolean
  /** Counts conversion losses, under the written names. */
  overflows?: Overflows
  signal?: AbortSignal
}

/** The tensors of a source for a writer, in state dict order; they are read on demand. */
export function tensorsToWrite(source: WeightSource, options: TransformOptions = {}): TensorToWrite[] {
  const { rename = (name: string) => name, dropTied = () => false, untie = false } = options
  const names = new Map<string, string>()
  for (const { name, sameAs } of source.tensors.values()) {
    const written = rename(name)
    if (written !== undefined && !(sameAs !== undefined && dropTied(written))) names.set(name, written)
  }
  const tensors = [...names].map(([name, written]): TensorToWrite => {
    const { dtype, shape, sameAs } = source.tensors.get(name)!
    const tie = sameAs === undefined || untie ? undefined : names.get(sameAs)
    return {
      name: written,
      dtype: targetDType(dtype, options.dtype),
      shape,
      ...(tie !== undefined && { sameAs: tie }),
      data: () => convertedChunks(source, name, written, options),
    }
  })
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  if (byName.size < tensors.length) throw new RangeError('two tensors would be written under the same name')
  return sortAsStateDict([...byName.keys()]).map((name) => byName.get(name)!)
}

/** A tensor's type after conversion. */
export function targetDType(dtype: WeightDType, wanted: CastDType | undefined): WeightDType {
  return wanted !== undefined && isCastable(dtype) ? wanted : dtype
}

async function* convertedChunks(
  source: WeightSource,
  name: string,
  written: string,
  { dtype, overflows, signal }: TransformOptions,
) {
  const from = source.tensors.get(name)!.dtype
  const chunks = tensorChunks(source, name)
  const losses: CastLosses = { overflows: 0 }
  for await (const chunk of dtype && isCastable(from) ? castChunks(chunks, from, dtype, losses) : chunks) {
    signal?.throwIfAborted()
    yield chunk
  }
  overflows?.add(written, losses.overflows)
}
