import { expect, it } from 'vitest'
import { fixtures } from '../support/fixtures.js'
import { runRanks } from '../support/ranks.js'

interface Outcome {
  /** Loss and gradient norm by step. */
  losses: [number, number][]
  hash: string
}

/** Three steps of the golden trajectory with only two instances: kernels are slow on an emulated GPU. */
async function train(device: string, size: number, stage: number): Promise<Outcome[]> {
  const few = { device, steps: 3, sequences: 2, maxTokens: 256 }
  const ends = await runRanks('sharded-training.mjs', size, { stage, fixtures, ...few })
  for (const { code, errors } of ends) expect({ code, errors }).toEqual({ code: 0, errors: '' })
  return ends.map(({ lines }) => lines[0] as Outcome)
}

it('ranks sharing one GPU follow one process on the CPU, with the same bits on all ranks', async () => {
  const [[alone], [first, second]] = await Promise.all([train('cpu', 1, 0), train('emulated', 2, 3)])
  expect(first.losses).toHaveLength(3)
  for (const [step, [loss, norm]] of first.losses.entries()) {
    expect(Math.abs(loss / alone.losses[step][0] - 1), `loss of step ${step}`).toBeLessThan(1e-5)
    expect(Math.abs(norm / alone.losses[step][1] - 1), `norm of step ${step}`).toBeLessThan(1e-4)
  }
  expect([second.losses, second.hash]).toEqual([first.losses, first.hash])
})
