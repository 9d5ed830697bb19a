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

describe('the launcher', () => {
  /** What CUDA_VISIBLE_DEVICES is for each of three ranks. */
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

  it('shows each process one GPU of those that it sees itself, in turns', async () => {
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
