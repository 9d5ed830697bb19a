import { describe, expect, it } from 'vitest'
import { launchRequest } from '../../lib/cli/launch-request.js'
import { type RecipeInput, recipeSchema } from '../../lib/train/recipe-schema.js'

const two = () => 2
const none = () => {
  throw new Error('no NVIDIA driver was found')
}
const request = (recipe: RecipeInput, countGpus: () => number) =>
  launchRequest(recipeSchema.parse(recipe), undefined, countGpus)

describe('train --gpus', () => {
  it('starts a process for each, and with one GPU none', () => {
    expect(request({ gpus: 2 }, two)).toMatchObject({ ranks: 2, gpus: 2 })
    expect(request({ gpus: 1 }, two)).toBeUndefined()
  })

  it('refuses more than there are before anything is started, and names how many there are', () => {
    expect(() => request({ gpus: 8 }, two)).toThrow(/this machine has 2 GPUs, and 8 processes .* use --gpus 2/)
    expect(() => request({ gpus: 3 }, none)).toThrow(/no GPU to use \(no NVIDIA driver was found\).*--ranks 3/)
  })

  it('is not for the CPU, and not to be used with --ranks', () => {
    expect(() => request({ gpus: 2, device: 'cpu' }, two)).toThrow(/--gpus is not for the CPU: use --ranks/)
    expect(() => request({ gpus: 2, ranks: 2 }, two)).toThrow(/--gpus or --ranks, not both/)
  })
})

describe('train --ranks', () => {
  it('needs no GPU, and has the processes share those that there are', () => {
    expect(request({ ranks: 3, device: 'cpu' }, two)).toMatchObject({ ranks: 3, gpus: 0 })
    expect(request({ ranks: 3 }, none)).toMatchObject({ ranks: 3, gpus: 0 })
    expect(request({ ranks: 3, device: 'cuda' }, two)).toMatchObject({ ranks: 3, gpus: 2 })
    expect(() => request({ ranks: 3, device: 'cuda' }, none)).toThrow(/no GPU to use/)
  })

  it('cannot share them by NCCL, which is not for the CPU either', () => {
    expect(() => request({ ranks: 3, device: 'cuda', backend: 'nccl' }, two)).toThrow(/2 GPUs, and NCCL refuses/)
    expect(() => request({ ranks: 2, device: 'cpu', backend: 'nccl' }, two)).toThrow(/nccl is not for the CPU/)
  })
})
