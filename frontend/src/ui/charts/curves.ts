/** What a chart draws, as plain numbers: smoothing, joining on the x axis, captions. */

export type Curve = {
  name: string
  label: string
  xs: number[]
  ys: number[]
  /** Sparse figures that are averages already, such as evaluations: drawn as measured, with their points. */
  sparse?: boolean
}

/** A curve of this many points or fewer is drawn as measured. */
const FEW_POINTS = 5

/** Exponential smoothing with a corrected start, so that the first points are not pulled to zero. A short curve gets less
 * of it than asked for: there is little to average over yet. */
export function smooth(ys: readonly number[], asked: number): number[] {
  const weight = Math.min(asked, 1 - FEW_POINTS / ys.length)
  if (weight <= 0) return [...ys]
  let sum = 0
  let norm = 0
  return ys.map((y) => {
    sum = sum * weight + y * (1 - weight)
    norm = norm * weight + (1 - weight)
    return sum / norm
  })
}

/** All curves over one ascending x axis, null where a curve has no value. */
export function align(
  curves: readonly { xs: readonly number[]; ys: readonly number[] }[],
): [number[], ...(number | null)[][]] {
  const xs = [...new Set(curves.flatMap((curve) => curve.xs))].sort((a, b) => a - b)
  const place = new Map(xs.map((x, index) => [x, index]))
  const rows = curves.map((curve) => {
    const row: (number | null)[] = new Array(xs.length).fill(null)
    curve.xs.forEach((x, index) => {
      row[place.get(x) ?? 0] = curve.ys[index] ?? null
    })
    return row
  })
  return [xs, ...rows]
}
