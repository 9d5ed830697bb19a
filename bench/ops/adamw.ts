import { adamw } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { C, F } = shapes
const n = 4 * C * C + 3 * C * F

/** The parameters of a block: master and moments read and written, the gradient read, the bfloat16 weights written. */
export const adamwCases: OpCase[] = [
  {
    op: 'adamw',
    bytes: n * (7 * bytesOf.float32 + bytesOf.bfloat16),
    flops: 0,
    prepare: (make) => {
      const args = {
        weights: make.empty('bfloat16', n),
        master: make.random('float32', n),
        m: make.random('float32', n),
        v: make.of('float32', new Float32Array(n).fill(1), n),
        grad: make.random('float32', n),
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weightDecay: 0.001,
        gradScale: 1,
        step: 1,
      }
      return (stream) => adamw(stream, args)
    },
  },
]
