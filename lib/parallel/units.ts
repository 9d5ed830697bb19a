/** Units: the flat buffers that ZeRO gathers and the optimizer walks, and how the passes use them. */

export interface Parameter {
  /** Its part in the computation, such as `q` or `inputNorm`: what code looks it up by. */
  role: string
  /** Hugging Face's name. */
  name: string
  shape: number[]
  /** Elements from the unit's start. */
  offset: number
}

export interface Unit {
  /** Its place in the order of the forward pass. */
  index: number
  name: string
  /** In the order in which they lie in memory. */
  parameters: Parameter[]
  /** Elements, the gaps included. */
  length: number
}

export interface Layout {
  embedding: Unit
  blocks: Unit[]
  head: Unit
  /** The output projection is the embedding matrix: the head needs both units. */
  tied: boolean
  /** All of them, in the order of the forward pass. */
  units: Unit[]
}

/** The units whose weights `unit` computes with. */
export function unitsNeededBy(unit: number, { head, embedding, tied }: Layout): number[] {
  return tied && unit === head.index ? [embedding.index, unit] : [unit]
}

/**
 * How the passes gather a unit's weights and hand over its gradients. A no-op where one device has all of them;
 * lib/parallel/sharded.ts implements it for several ranks.
 */
export interface UnitWeights {
  /**
   * Ops enqueued from here on find the unit's weights in place.
   * @param direction 1 in the forward pass, −1 in the backward pass: decides which unit is prefetched
   */
  get(unit: number, direction: 1 | -1): void
  /** The ops enqueued so far were the last to need them. */
  release(unit: number): void
}

export interface UnitGradients {
  /** Ops enqueued from here on add into the unit's gradients. */
  begin(unit: number): void
  /** The ops enqueued so far were the last of this pass to do so. */
  end(unit: number): void
}
