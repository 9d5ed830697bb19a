import { matmul as matmulOp } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { T, C, F } = shapes
const flops = 2 * T * C * 2 * F

/** The three products of the gate and up projection: forward, gradient of the input, gradient of the weight. */
/** The products of one token: only reading the weights takes time. */
const decodeMatmul: OpCase = {
  op: 'matmul, one row',
  bytes: 2 * F * C * bytesOf.bfloat16,
  flops: 0,
  prepare: (make) => {
    const c = make.empty('bfloat16', 1, 2 * F)
    const a = make.random('bfloat16', 1, C)
    const b = make.random('bfloat16', 2 * F, C)
    return (stream) => matmulOp(stream, { c, a, b, transposeB: true })
  },
}

export const matmul: OpCase[] = [
  decodeMatmul,
  {
    op: 'matmul',
    bytes: 0,
    flops,
    prepare: (make) => {
      const c = make.empty('bfloat16', T, 2 * F)
      const a = make.random('bfloat16', T, C)
      const b = make.random('bfloat16', 2 * F, C)
      return (stream) => matmulOp(stream, { c, a, b, transposeB: true })
    },
  },
  {
    op: 'matmul, input gradient',
    bytes: 0,
    flops,
    prepare: (make) => {
      const c = make.empty('bfloat16', T, C)
      const a = make.random('bfloat16', T, 2 * F)
      const b = make.random('bfloat16', 2 * F, C)
      return (stream) => matmulOp(stream, { c, a, b })
    },
  },
  {
    op: 'matmul, weight gradient',
    bytes: 0,
    flops,
    prepare: (make) => {
      const c = make.random('float32', 2 * F, C)
      const a = make.random('bfloat16', T, 2 * F)
      const b = make.random('bfloat16', T, C)
      return (stream) => matmulOp(stream, { c, a, b, transposeA: true, beta: 1 })
    },
  },
]
