import { embeddingBackward, embeddingForward } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { T, C, V } = shapes

export const embedding: OpCase[] = [
  {
    op: 'embedding_forward',
    bytes: 2 * T * C * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = {
        out: make.empty('bfloat16', T, C),
        ids: make.integers(V, T),
        w: make.random('bfloat16', V, C),
      }
      return (stream) => embeddingForward(stream, args)
    },
  },
  {
    op: 'embedding_backward',
    bytes: T * C * (bytesOf.bfloat16 + 2 * bytesOf.float32),
    flops: 0,
    prepare: (make) => {
      const args = {
        dw: make.random('float32', V, C),
        dout: make.random('bfloat16', T, C),
        ids: make.integers(V, T),
      }
      return (stream) => embeddingBackward(stream, args)
    },
  },
]
