import { globalNorm as globalNormOp } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { C, F } = shapes
const n = 4 * C * C + 3 * C * F

export const globalNorm: OpCase[] = [
  {
    op: 'global_norm',
    bytes: n * bytesOf.float32,
    flops: 0,
    prepare: (make) => {
      const args = { out: make.empty('float32', 1), x: make.random('float32', n) }
      return (stream) => globalNormOp(stream, args)
    },
  },
]
