/** Damage to bytes and to texts, from a seeded generator. */

/**
 * Random numbers from a seed: the same on every machine (Steele et al., "Fast splittable pseudorandom number
 * generators").
 */
export class Dice {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** An integer from 0 to n − 1. */
  below(n: number): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0
    let z = this.#state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return ((z ^ (z >>> 15)) >>> 0) % n
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }

  /** A position; half of them are in the first and the last kilobyte, where formats keep their structure. */
  position(length: number): number {
    const near = Math.min(length, 1024)
    return [this.below(near), length - 1 - this.below(near), this.below(length), this.below(length)][this.below(4)]!
  }
}

const BYTES = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x28, 0x2e, 0x52, 0x63]
const WIDE = [0n, 1n, 0x7fn, 0xffffn, 0x7fffffffn, 0xffffffffn, 0x100000000n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 64n - 1n]

type Mutation = (bytes: Buffer, dice: Dice, seeds: readonly Buffer[]) => Buffer

const mutations: Mutation[] = [
  (bytes, dice) => at(bytes, dice, (copy, i) => copy.writeUInt8(copy[i]! ^ (1 << dice.below(8)), i)),
  (bytes, dice) => at(bytes, dice, (copy, i) => copy.writeUInt8(dice.pick(BYTES), i)),
  (bytes, dice) => at(bytes, dice, (copy, i) => copy.writeUInt8(dice.below(256), i)),
  (bytes, dice) =>
    at(bytes, dice, (copy, i) => {
      const value = Buffer.alloc(8)
      value.writeBigUInt64LE(dice.pick(WIDE))
      value.copy(copy, i, 0, dice.pick([2, 4, 8]))
    }),
  (bytes, dice) => bytes.subarray(0, dice.position(bytes.length)),
  (bytes, dice) => bytes.subarray(Math.min(bytes.length - 1, dice.below(40))),
  (bytes, dice) => {
    const [i, length] = [dice.position(bytes.length), 1 + dice.below(40)]
    return Buffer.concat([bytes.subarray(0, i), bytes.subarray(i + length)])
  },
  (bytes, dice) => {
    const [i, from, length] = [dice.position(bytes.length), dice.position(bytes.length), 1 + dice.below(200)]
    return Buffer.concat([bytes.subarray(0, i), bytes.subarray(from, from + length), bytes.subarray(i)])
  },
  (bytes, dice, seeds) => {
    const other = dice.pick(seeds)
    const [i, from] = [dice.position(bytes.length), dice.position(other.length)]
    return Buffer.concat([bytes.subarray(0, i), other.subarray(from)])
  },
]

function at(bytes: Buffer, dice: Dice, change: (copy: Buffer, position: number) => void): Buffer {
  const copy = Buffer.concat([bytes, Buffer.alloc(8)]) // space for a wide value at the end
  change(copy, dice.position(bytes.length))
  return copy.subarray(0, bytes.length)
}

/** One to four kinds of damage in sequence. */
export function mutateBytes(seeds: readonly Buffer[], dice: Dice): Buffer {
  let bytes = dice.pick(seeds)
  for (let left = 1 + dice.below(4); left > 0 && bytes.length > 0; left--) {
    bytes = dice.pick(mutations)(bytes, dice, seeds)
  }
  return bytes
}

const VALUES = [
  ...['0', '-1', '1e400', '1e308', '0.5', '2147483648', '9007199254740993', '1e9', 'null', 'true', '[]', '{}', '""'],
  ...['"../../outside"', '"/etc/passwd"', '"a\\u0000b"', '"__proto__"', '"constructor"', '[[[[[[[[]]]]]]]]'],
  ...['"..\\\\outside.bin"', '"outside/x.safetensors"', '".safetensors"', '"\\ud800.bin"', `"${'x'.repeat(5000)}"`],
]

/** JSON text with values, keys, and punctuation changed, or damaged as bytes. */
export function mutateJson(seeds: readonly Buffer[], dice: Dice): Buffer {
  if (dice.below(5) === 0) return mutateBytes(seeds, dice)
  let text = dice.pick(seeds).toString()
  for (let left = 1 + dice.below(3); left > 0; left--) {
    const tokens = [...text.matchAll(/"(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*|true|false|null|[[\]{}:,]/g)]
    if (tokens.length === 0) break
    const token = dice.pick(tokens)
    const [before, after] = [text.slice(0, token.index), text.slice(token.index + token[0].length)]
    const replacement = dice.below(6) === 0 ? '' : dice.below(5) === 0 ? token[0].repeat(2) : dice.pick(VALUES)
    text = before + replacement + after
  }
  return Buffer.from(text)
}
