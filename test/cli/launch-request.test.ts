import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { launchRequest } from '../../lib/cli/launch-request.js'
import { launch } from '../../lib/parallel/launcher.js'
import { type RecipeInput, recipeSchema } from '../../lib/train/recipe-schema.js'

const two = () => 2
const none = () => {
  throw new Error('no NVIDIA driver was found')
}
const request = (recipe: RecipeInput, countGpus: () => number) =>
  launchRequest(recipeSchema.parse(recipe), undefined, countGpus)

describe('train --gpus', () => {
  it('train --gpus starts one process per GPU, and none for one GPU', () => {
    expect(request({ gpus: 2 }, two)).toMatchObject({ ranks: 2, gpus: 2 })
    expect(request({ gpus: 1 }, two)).toBeUndefined()
  })

  it('train --gpus rejects more GPUs than there are before it starts any, and names their number', () => {
    expect(() => request({ gpus: 8 }, two)).toThrow(/this machine has 2 GPUs, and 8 processes .* use --gpus 2/)
    expect(() => request({ gpus: 3 }, none)).toThrow(/no GPU to use \(no NVIDIA driver was found\).*--ranks 3/)
  })

  it('train --gpus cannot be combined with the CPU or with --ranks', () => {
    expect(() => request({ gpus: 2, device: 'cpu' }, two)).toThrow(/--gpus is not for the CPU: use --ranks/)
    expect(() => request({ gpus: 2, ranks: 2 }, two)).toThrow(/--gpus or --ranks, not both/)
  })
})

describe('train --ranks', () => {
  it('train --ranks needs no GPU, and shares the available GPUs', () => {
    expect(request({ ranks: 3, device: 'cpu' }, two)).toMatchObject({ ranks: 3, gpus: 0 })
    expect(request({ ranks: 3 }, none)).toMatchObject({ ranks: 3, gpus: 0 })
    expect(request({ ranks: 3, device: 'cuda' }, two)).toMatchObject({ ranks: 3, gpus: 2 })
    expect(() => request({ ranks: 3, device: 'cuda' }, none)).toThrow(/no GPU to use/)
  })

  it('train --ranks cannot share GPUs with NCCL, and cannot use NCCL on the CPU', () => {
    expect(() => request({ ranks: 3, device: 'cuda', backend: 'nccl' }, two)).toThrow(/2 GPUs, and NCCL refuses/)
    expect(() => request({ ranks: 2, device: 'cpu', backend: 'nccl' }, two)).toThrow(/nccl is not for the CPU/)
  })
})

describe('the launcher', () => {
  /** CUDA_VISIBLE_DEVICES for each of three ranks. */
  async function seen(gpus: number): Promise<string[]> {
    const folder = mkdtempSync(path.join(tmpdir(), 'gpus-'))
    const script = `fs.writeFileSync(${JSON.stringify(`${folder}/`)} + process.env.RANK, process.env.CUDA_VISIBLE_DEVICES ?? '')`
    try {
      await launch({ args: ['-e', script], ranks: 3, gpus, maxRestarts: 0, restartArgs: [], say: () => {} })
      return [0, 1, 2].map((rank) => readFileSync(path.join(folder, `${rank}`), 'utf8'))
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  it('the launcher shows each process one of its visible GPUs, round-robin', async () => {
    const before = process.env.CUDA_VISIBLE_DEVICES
    try {
      delete process.env.CUDA_VISIBLE_DEVICES
      expect(await seen(3)).toEqual(['0', '1', '2'])
      process.env.CUDA_VISIBLE_DEVICES = '5,7'
      expect(await seen(2)).toEqual(['5', '7', '5'])
      expect(await seen(0)).toEqual(['5,7', '5,7', '5,7'])
    } finally {
      if (before === undefined) delete process.env.CUDA_VISIBLE_DEVICES
      else process.env.CUDA_VISIBLE_DEVICES = before
    }
  })
})
