import { sample as sampleOp } from '#lib/ops.js'
import { shapes } from '../configs.js'
import { bytesOf, type OpCase } from './case.js'

const { V } = shapes
/** Enough positions for the tokens of all calls. */
const positions = 2 ** 20

export const sample: OpCase[] = [
  {
    op: 'sample',
    bytes: V * bytesOf.bfloat16,
    flops: 0,
    prepare: (make) => {
      const args = {
        ids: make.integers(V, 1),
        positions: make.of('int32', Int32Array.of(0), 1),
        history: make.integers(V, 1, positions),
        logits: make.random('bfloat16', 1, V),
        sequenceSeeds: make.integers(1, 1),
        scratch: make.empty('float32', 1, 2 * V),
        temperature: make.of('float32', Float32Array.of(1), 1),
        topP: make.of('float32', Float32Array.of(0.9), 1),
        repetitionPenalty: make.of('float32', Float32Array.of(1), 1),
        topK: make.of('int32', Int32Array.of(50), 1),
        seeds: make.of('int32', Int32Array.of(0, 0), 1, 2),
      }
      return (stream) => sampleOp(stream, args)
    },
  },
]
