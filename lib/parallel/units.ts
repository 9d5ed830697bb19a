/** Units: the flat buffers that ZeRO gathers and the optimizer walks, and how the passes use them. */

export interface Parameter {
  /** Hugging Face's name. */
  name: string
  shape: number[]
  /** Elements from the unit's start. */
  offset: number
}

export interface Unit {
  name: string
  parameters: Parameter[]
  /** Elements, the gaps included. */
  length: number
}

export interface Layout {
  embedding: Unit
  blocks: Unit[]
  head: Unit
  /** All of them, in the order of the forward pass. */
  units: Unit[]
}

/**
 * How the passes take hold of a unit's weights and leave its gradients. Where one device has all of them, nothing has
 * to be done; in sharded training (lib/parallel/sharded.ts) this is where the ranks come in.
 */
export interface UnitWeights {
  /**
   * What is enqueued from here on finds the unit's weights in place.
   * @param onwards where the pass goes next, so that what comes next is fetched meanwhile: 1 up the model, −1 down
   */
  get(unit: number, onwards: 1 | -1): void
  /** What was enqueued before was the last to need them. */
  release(unit: number): void
}

export interface UnitGradients {
  /** What is enqueued from here on adds into the unit's gradients. */
  begin(unit: number): void
  /** What was enqueued before was the last of this pass to do so. */
  end(unit: number): void
}
