import { DTYPE_BYTES, type TensorInfo, type WeightSource } from '../io/weight-source.js'

/** Consecutive elements of a tensor. */
export interface ElementRange {
  start: number
  count: number
}

/** Ranges of a source's tensors as separate flat tensors with the same names. Closing it closes the source. */
export function sliceSource(source: WeightSource, ranges: ReadonlyMap<string, ElementRange>): WeightSource {
  const tensors = new Map<string, TensorInfo>()
  for (const [name, info] of source.tensors) {
    const range = ranges.get(name)
    if (!range) continue
    tensors.set(name, { name, dtype: info.dtype, shape: [range.count], bytes: range.count * DTYPE_BYTES[info.dtype] })
  }
  return {
    tensors,
    read: (name, byteOffset, into) => {
      const start = ranges.get(name)!.start * DTYPE_BYTES[source.tensors.get(name)!.dtype]
      return source.read(name, start + byteOffset, into)
    },
    close: () => source.close(),
  }
}
