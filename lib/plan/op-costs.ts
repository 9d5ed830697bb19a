/** The minimum data movement and computation of an op of core/ops.h, from its arguments. */
import { updatedArguments } from '../device.js'
import { type HostArray, Tensor } from '../tensor.js'

export interface Work {
  /** Read and written. */
  bytes: number
  /** Floating-point operations of matrix products. */
  flops: number
  /** Those of attention, which has a separate rate. */
  attentionFlops: number
}

type Args = Record<string, unknown>

const tensorOf = (args: Args, name: string) => args[name] as Tensor

function bytesOf(name: string, args: Args): number {
  let bytes = 0
  for (const value of Object.values(args)) if (value instanceof Tensor) bytes += value.byteLength
  // Only the matrix rows that the ids name are touched: read forward, read and written backward.
  if (name === 'embedding_forward') return 2 * tensorOf(args, 'out').byteLength + tensorOf(args, 'ids').byteLength
  if (name === 'embedding_backward') {
    const { dout, dw, ids } = args as Record<string, Tensor>
    const rows = (dout.length * dw.byteLength) / dw.length
    return dout.byteLength + 2 * rows + ids.byteLength
  }
  if (name === 'matmul' && args.beta) bytes += tensorOf(args, 'c').byteLength
  if (name === 'cross_entropy' && !args.writeGradient) return bytes
  for (const argument of updatedArguments(name)) bytes += tensorOf(args, argument).byteLength
  return bytes
}

/** Forward, two products, half of them masked; backward, five. */
const attentionProducts: Record<string, number> = { attention_forward: 2, attention_backward: 5 }

function attentionFlops(name: string, args: Args, ends: HostArray | undefined): number {
  const out = tensorOf(args, 'out')
  const [tokens, heads, size] = out.shape
  const lengths = ends ? Array.from(ends.subarray(1), (end, s) => end - ends[s]) : [tokens]
  return attentionProducts[name] * heads * size * lengths.reduce((sum, length) => sum + length ** 2, 0)
}

export function workOf(name: string, args: object, contents: (tensor: Tensor) => HostArray | undefined): Work {
  const named = args as Args
  const bytes = bytesOf(name, named)
  if (name === 'matmul') {
    const [a, c] = [tensorOf(named, 'a'), tensorOf(named, 'c')]
    return { bytes, flops: 2 * c.shape[1] * a.length, attentionFlops: 0 }
  }
  if (!(name in attentionProducts)) return { bytes, flops: 0, attentionFlops: 0 }
  return { bytes, flops: 0, attentionFlops: attentionFlops(name, named, contents(tensorOf(named, 'cuSeqlens'))) }
}
