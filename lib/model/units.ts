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
