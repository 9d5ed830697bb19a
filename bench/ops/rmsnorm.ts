import { addRmsNormForward, rmsNormBackward, rmsNormForward } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { T, C } = shapes
const eps = 1e-6

export const rmsNorm: OpCase[] = [
  {
    op: 'rmsnorm_forward',
    bytes: 2 * T * C * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = {
        y: make.empty('bfloat16', T, C),
        rstd: make.empty('float32', T),
        x: make.random('bfloat16', T, C),
        w: make.random('bfloat16', C),
        eps,
      }
      return (stream) => rmsNormForward(stream, args)
    },
  },
  {
    op: 'add_rmsnorm_forward',
    bytes: 4 * T * C * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = {
        y: make.empty('bfloat16', T, C),
        rstd: make.empty('float32', T),
        sum: make.empty('bfloat16', T, C),
        x: make.random('bfloat16', T, C),
        delta: make.random('bfloat16', T, C),
        w: make.random('bfloat16', C),
        eps,
      }
      return (stream) => addRmsNormForward(stream, args)
    },
  },
  {
    op: 'rmsnorm_backward',
    bytes: 4 * T * C * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = {
        dx: make.random('bfloat16', T, C),
        dw: make.random('float32', C),
        dy: make.random('bfloat16', T, C),
        x: make.random('bfloat16', T, C),
        w: make.random('bfloat16', C),
        rstd: make.random('float32', T),
      }
      return (stream) => rmsNormBackward(stream, args)
    },
  },
]
