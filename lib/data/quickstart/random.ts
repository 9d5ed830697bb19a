import { Philox } from '../random.js'

/** The random number stream for the quickstart's instructions; data order and split use others. */
const STREAM_QUICKSTART = 2

/** Random choices that depend only on the seed. */
export class Choices {
  readonly #random: Philox

  constructor(seed: number) {
    this.#random = new Philox(seed, STREAM_QUICKSTART)
  }

  /** An integer from `low` to `high`, inclusive. */
  integer(low: number, high: number): number {
    return low + this.#random.below(high - low + 1)
  }

  /** True with a probability of `percent` %. */
  chance(percent: number): boolean {
    return this.#random.below(100) < percent
  }

  pick<T>(items: readonly T[]): T {
    return items[this.#random.below(items.length)]
  }

  /** `count` distinct items in random order. */
  sample<T>(items: readonly T[], count: number): T[] {
    const left = [...items]
    return Array.from({ length: count }, () => left.splice(this.#random.below(left.length), 1)[0])
  }
}

/** FNV-1a of a text's UTF-16 units, mixed at the end so that the low bits depend on all of them. */
export function hash(text: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}
