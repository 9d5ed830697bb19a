import type { Choices } from './random.js'

/** One question with its answer, before the split into training and held-out problems. */
export interface Problem {
  instruction: string
  input: string
  output: string
  /**
   * Identifies the problem regardless of phrasing: `add 12 47` for "12 + 47" and for "Add 47 and 12.". The split uses
   * it, so that training contains no held-out problem in any phrasing.
   */
  identity: string
  /**
   * Given if `identity` is a fact that must be learned from the training data, such as a capital. One of the `of`
   * phrasings (not the same for each fact) is held out; `index` is the number of this one.
   */
  phrasing?: { index: number; of: number }
}

/** A kind of instruction, and its approximate share of the training rows in percent. */
export interface Skill {
  name: string
  weight: number
  draw(random: Choices): Problem
}

/** Fills `{name}` in a phrase. */
export function fill(phrase: string, values: Record<string, string | number>): string {
  return phrase.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name]))
}

/** A skill that asks for facts in each of `phrases`, in which `{fact}` stands for the subject. */
export function drawFact(
  random: Choices,
  kind: string,
  facts: readonly (readonly [string, string])[],
  phrases: string[],
) {
  const [fact, output] = random.pick(facts)
  const index = random.integer(0, phrases.length - 1)
  const [instruction, input = ''] = fill(phrases[index], { fact }).split('|')
  return { instruction, input, output, identity: `${kind} ${fact}`, phrasing: { index, of: phrases.length } }
}
