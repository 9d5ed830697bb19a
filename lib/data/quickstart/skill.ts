import type { Choices } from './random.js'

/** One question with its answer, before it is known whether it is for training or held out. */
export interface Problem {
  instruction: string
  input: string
  output: string
  /**
   * What makes this problem the same as another: `add 12 47` for "12 + 47" and for "Add 47 and 12.". The split goes by
   * it, so that nothing of a held-out problem is met in training, whatever the words around it.
   */
  identity: string
  /**
   * Given when `identity` is a fact that has to be told once to be known, such as a capital. Of the `of` ways to ask
   * for it, one (not the same for each fact) is held out, and `index` says which way this one is.
   */
  phrasing?: { index: number; of: number }
}

/** A kind of instruction, and how many of every hundred training rows or so are of this kind. */
export interface Skill {
  name: string
  weight: number
  draw(random: Choices): Problem
}

/** Fills `{name}` in a phrase. */
export function fill(phrase: string, values: Record<string, string | number>): string {
  return phrase.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name]))
}

/** A skill that asks for facts in every one of `phrases`, which say `{fact}` for the thing asked about. */
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
