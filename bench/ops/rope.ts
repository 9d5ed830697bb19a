import { ropeForward } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { T, H, D, sequences } = shapes
const length = T / sequences

export const rope: OpCase[] = [
  {
    op: 'rope_forward',
    bytes: 2 * T * 2 * H * D * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = {
        qkv: make.random('bfloat16', T, 3 * H, D),
        cos: make.random('float32', length, D / 2),
        sin: make.random('float32', length, D / 2),
        positions: make.of(
          'int32',
          Int32Array.from({ length: T }, (_, t) => t % length),
          T,
        ),
        numHeads: H,
        numKvHeads: H,
      }
      return (stream) => ropeForward(stream, args)
    },
  },
]
