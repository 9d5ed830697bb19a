import { adamwCases } from './adamw.js'
import { attention } from './attention.js'
import { attentionDecode } from './attention_decode.js'
import type { OpCase } from './case.js'
import { cast } from './cast.js'
import { crossEntropy } from './cross_entropy.js'
import { embedding } from './embedding.js'
import { globalNorm } from './global_norm.js'
import { matmul } from './matmul.js'
import { rmsNorm } from './rmsnorm.js'
import { rope } from './rope.js'
import { sample } from './sample.js'
import { swiglu } from './swiglu.js'

export const allOps: OpCase[] = [
  ...cast,
  ...embedding,
  ...rmsNorm,
  ...matmul,
  ...rope,
  ...attention,
  ...attentionDecode,
  ...swiglu,
  ...crossEntropy,
  ...adamwCases,
  ...globalNorm,
  ...sample,
]
