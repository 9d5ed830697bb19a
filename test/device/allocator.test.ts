import { describe, expect, it } from 'vitest'
import { deviceTypes } from '../support/devices.js'

const gpus = deviceTypes.filter(({ name }) => name !== 'cpu')
const MiB = 2 ** 20

describe.each(gpus)('memory of $name', ({ device }) => {
  /** The free memory that a tensor of this many bytes takes. */
  function taken(bytes: number): number {
    const before = device.properties.freeMemory
    using _ = device.tensor('int32', [Math.ceil(bytes / 4)])
    return before - device.properties.freeMemory
  }

  it('the allocator wastes at most an eighth of a block', () => {
    for (const size of [1.1, 3.3, 9.01, 15.1]) {
      expect(taken(size * MiB), `${size} MiB`).toBeGreaterThanOrEqual(size * MiB)
      expect(taken(size * MiB), `${size} MiB`).toBeLessThanOrEqual(1.125 * size * MiB + 4)
    }
  })

  it('the allocator wastes less than one 2 MiB page of a large block', () => {
    const sizes = [16.01, 33, 100.5, 130]
    expect(sizes.map((size) => taken(size * MiB) / MiB)).toEqual([18, 34, 102, 130])
  })
})
