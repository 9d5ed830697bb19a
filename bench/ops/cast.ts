import { cast as castOp } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { C, F } = shapes
const n = 4 * C * C + 3 * C * F

/** A copy of a block's parameters in float32, as a baseline for the rates of the other ops. */
export const cast: OpCase[] = [
  {
    op: 'cast',
    bytes: 2 * n * bytesOf.float32,
    flops: 0,
    prepare: (make) => {
      const args = { dst: make.empty('float32', n), src: make.random('float32', n) }
      return (stream) => castOp(stream, args)
    },
  },
]
