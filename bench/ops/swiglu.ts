import { swigluBackward, swigluForward } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { T, F } = shapes

export const swiglu: OpCase[] = [
  {
    op: 'swiglu_forward',
    bytes: 3 * T * F * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = { h: make.empty('bfloat16', T, F), gateUp: make.random('bfloat16', T, 2 * F) }
      return (stream) => swigluForward(stream, args)
    },
  },
  {
    op: 'swiglu_backward',
    bytes: 5 * T * F * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = { gateUp: make.random('bfloat16', T, 2 * F), dh: make.random('bfloat16', T, F) }
      return (stream) => swigluBackward(stream, args)
    },
  },
]
