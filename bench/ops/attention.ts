import { attentionBackward, attentionForward } from '#lib/ops.js'
import { shapes } from '../configs.js'
import type { OpCase, Operands } from './case.js'

const { T, H, D, sequences } = shapes
const length = T / sequences
/** FLOPs of one product of queries and keys; the mask removes half of them. */
const productFlops = (sequences * 2 * length ** 2 * H * D) / 2

function operands(make: Operands) {
  return {
    qkv: make.random('bfloat16', T, 3 * H, D),
    out: make.random('bfloat16', T, H, D),
    lse: make.random('float32', H, T),
    cuSeqlens: make.of(
      'int32',
      Int32Array.from({ length: sequences + 1 }, (_, s) => s * length),
      sequences + 1,
    ),
    numHeads: H,
    numKvHeads: H,
    scale: D ** -0.5,
  }
}

export const attention: OpCase[] = [
  {
    op: 'attention_forward',
    bytes: 0,
    flops: 2 * productFlops,
    prepare: (make) => {
      const args = operands(make)
      return (stream) => attentionForward(stream, args)
    },
  },
  {
    op: 'attention_backward',
    bytes: 0,
    flops: 5 * productFlops,
    prepare: (make) => {
      const forward = operands(make)
      attentionForward(make.stream, forward)
      const args = {
        ...forward,
        dqkv: make.empty('bfloat16', T, 3 * H, D),
        delta: make.empty('float32', H, T),
        dout: make.random('bfloat16', T, H, D),
      }
      return (stream) => attentionBackward(stream, args)
    },
  },
]
