import { crossEntropy as crossEntropyOp } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { V } = shapes
const rows = shapes.T / 4

/** Loss and gradient of a chunk of logits. */
export const crossEntropy: OpCase[] = [
  {
    op: 'cross_entropy',
    bytes: 2 * rows * V * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = {
        logits: make.random('bfloat16', rows, V),
        losses: make.empty('float32', rows),
        correct: make.empty('int32', rows),
        labels: make.integers(V, rows),
        weights: make.random('float32', rows),
        writeGradient: true,
      }
      return (stream) => crossEntropyOp(stream, args)
    },
  },
]
