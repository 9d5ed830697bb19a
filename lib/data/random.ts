/**
 * Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
 * Each (seed, stream, substream) has an independent sequence, which any process can generate without the others.
 */
export class Philox {
  readonly #key: readonly [number, number]
  readonly #stream: number
  readonly #substream: number
  #block = 0
  #words: number[] = []

  /**
   * @param seed an integer in [0, 2⁵³)
   * @param stream the purpose of the numbers, a uint32
   * @param substream an index within the stream (an epoch, say), a uint32
   */
  constructor(seed: number, stream: number, substream = 0) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new RangeError(`seed must be an integer from 0 to ${Number.MAX_SAFE_INTEGER}, got ${seed}`)
    }
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32)]
    this.#stream = stream
    this.#substream = substream
  }

  /** The next uint32. */
  next(): number {
    if (this.#words.length === 0) {
      this.#words = philox4x32([this.#block++, 0, this.#substream, this.#stream], this.#key).reverse()
    }
    return this.#words.pop()!
  }

  /** A uniform integer in [0, bound), without modulo bias; bound ≤ 2³². */
  below(bound: number): number {
    const limit = 2 ** 32 - (2 ** 32 % bound)
    let word = this.next()
    while (word >= limit) word = this.next()
    return word % bound
  }
}

type Words = [number, number, number, number]

/** One block: ten rounds over a 128-bit counter with a 64-bit key, all as uint32. */
export function philox4x32(counter: Readonly<Words>, key: readonly [number, number]): Words {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0)
    const low0 = Math.imul(0xd2511f53, c0)
    const high1 = multiplyHigh(0xcd9e8d57, c2)
    const low1 = Math.imul(0xcd9e8d57, c2)
    c0 = high1 ^ c1 ^ k0
    c1 = low1
    c2 = high0 ^ c3 ^ k1
    c3 = low0
    k0 = (k0 + 0x9e3779b9) | 0
    k1 = (k1 + 0xbb67ae85) | 0
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0]
}

/** The high 32 bits of the product of two uint32, by 16-bit halves: every partial sum is exact in a double. */
function multiplyHigh(a: number, b: number): number {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16]
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(((middle & 0xffff) + aLow * bHigh) / 65536)) >>> 0
}
