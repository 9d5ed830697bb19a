import { NonFiniteError } from '../errors.js'

const MOST_NAMES = 5

/** Finite values that a conversion made infinite or NaN, by tensor. */
export class Overflows {
  readonly #tensors = new Map<string, number>()

  /** @param name the tensor's Hugging Face name; counts of the same tensor add up */
  add(name: string, count: number): void {
    if (count > 0) this.#tensors.set(name, (this.#tensors.get(name) ?? 0) + count)
  }

  get total(): number {
    return [...this.#tensors.values()].reduce((sum, count) => sum + count, 0)
  }

  get byTensor(): Record<string, number> {
    return Object.fromEntries(this.#tensors)
  }

  /**
   * A sentence with counts and names; undefined if nothing overflowed.
   * @param dtype the target type of the conversion
   */
  describe(dtype: string): string | undefined {
    const { total } = this
    if (total === 0) return undefined
    const names = [...this.#tensors].map(([name, count]) => `${name} (${count})`)
    const more = names.length > MOST_NAMES ? `, and ${names.length - MOST_NAMES} more` : ''
    const wider = dtype === 'float16' || dtype === 'q8_0' ? 'bfloat16 or float32' : 'float32'
    return (
      `${total} ${total === 1 ? 'value' : 'values'} of ${names.length} ${names.length === 1 ? 'tensor' : 'tensors'} cannot ` +
      `be held by ${dtype}, and ${total === 1 ? 'is' : 'are'} not finite any more: ` +
      `${names.slice(0, MOST_NAMES).join(', ')}${more}; the dtype ${wider} keeps them`
    )
  }

  /** @throws {NonFiniteError} for any overflow */
  refuse(dtype: string): void {
    const sentence = this.describe(dtype)
    if (sentence !== undefined) throw new NonFiniteError(`nothing is written, since ${sentence}`)
  }
}
