/**
 * The gradient of a scalar function by central differences. In float64 with this step, the error of the differences is
 * about 1e-10 of the function's magnitude: rounding 1e-16 / 1e-5 = 1e-11, truncation of the order of the step's square.
 */
export function finiteDifferences(f: (x: Float64Array) => number, x: Float64Array, step = 1e-5): Float64Array {
  return x.map((_, i) => {
    const at = (value: number) => f(Float64Array.from(x, (other, j) => (i === j ? value : other)))
    return (at(x[i] + step) - at(x[i] - step)) / (2 * step)
  })
}

/** Σ aᵢ bᵢ */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i]
  return sum
}
