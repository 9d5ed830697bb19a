import { attentionDecode as attentionDecodeOp } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { T: P, H, D } = shapes

/** One sequence with a full cache. */
export const attentionDecode: OpCase[] = [
  {
    op: 'attention_decode',
    bytes: 2 * P * H * D * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = {
        out: make.empty('bfloat16', 1, H, D),
        qkv: make.random('bfloat16', 1, 3 * H, D),
        kCache: make.random('bfloat16', 1, P, H, D),
        vCache: make.random('bfloat16', 1, P, H, D),
        positions: make.of('int32', Int32Array.of(P - 1), 1),
        numHeads: H,
        numKvHeads: H,
        scale: D ** -0.5,
      }
      return (stream) => attentionDecodeOp(stream, args)
    },
  },
]
