import { describe, expect, it } from 'vitest'
import { deviceTypes } from '../support/devices.js'

const gpus = deviceTypes.filter(({ name }) => name !== 'cpu')
const MiB = 2 ** 20

describe.each(gpus)('memory of $name', ({ device }) => {
  /** Bytes that a tensor of so many takes of what is free. */
  function taken(bytes: number): number {
    const before = device.properties.freeMemory
    using _ = device.tensor('int32', [Math.ceil(bytes / 4)])
    return before - device.properties.freeMemory
  }

  it('loses an eighth of a block at most', () => {
    for (const size of [1.1, 3.3, 9.01, 15.1]) {
      expect(taken(size * MiB), `${size} MiB`).toBeGreaterThanOrEqual(size * MiB)
      expect(taken(size * MiB), `${size} MiB`).toBeLessThanOrEqual(1.125 * size * MiB + 4)
    }
  })

  it('loses less than a page of 2 MiB of a large block', () => {
    const sizes = [16.01, 33, 100.5, 130]
    expect(sizes.map((size) => taken(size * MiB) / MiB)).toEqual([18, 34, 102, 130])
  })
})
