/**
 * Units: the flat buffers that ZeRO gathers and the optimizer updates, and the interface through which the passes use
 * them.
 */

export interface Parameter {
  /** Its role in the computation, such as `q` or `inputNorm`, by which code finds it. */
  role: string
  /** Hugging Face's name. */
  name: string
  shape: number[]
  /** Offset from the unit's start, in elements. */
  offset: number
}

export interface Unit {
  /** Its index in forward-pass order. */
  index: number
  name: string
  /** In memory order. */
  parameters: Parameter[]
  /** Elements, including gaps. */
  length: number
}

export interface Layout {
  embedding: Unit
  blocks: Unit[]
  head: Unit
  /** Whether the output projection is the embedding matrix, so that the head needs both units. */
  tied: boolean
  /** All units, in forward-pass order. */
  units: Unit[]
}

/** The units whose weights `unit` computes with. */
export function unitsNeededBy(unit: number, { head, embedding, tied }: Layout): number[] {
  return tied && unit === head.index ? [embedding.index, unit] : [unit]
}

/**
 * Gathers units' weights and reduces their gradients for the passes. A no-op on a single device;
 * lib/parallel/sharded.ts implements it for several ranks.
 */
export interface UnitWeights {
  /**
   * Makes the unit's weights available to ops enqueued from here on.
   * @param direction 1 in the forward pass, −1 in the backward pass; decides which unit is prefetched
   */
  get(unit: number, direction: 1 | -1): void
  /** Call after the last op that needs the weights is enqueued. */
  release(unit: number): void
}

export interface UnitGradients {
  /** Lets ops enqueued from here on accumulate into the unit's gradients. */
  begin(unit: number): void
  /** Call after the last op of this pass that does so is enqueued. */
  end(unit: number): void
}
