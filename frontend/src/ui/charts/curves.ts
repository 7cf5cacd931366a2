/** What a chart draws, as plain numbers: smoothing, joining on the x axis, captions. */

export type Curve = {
  name: string
  label: string
  xs: number[]
  ys: number[]
  /** Sparse figures that are averages already, such as evaluations: drawn as measured, with their points. */
  sparse?: boolean
}

/** Exponential smoothing with a corrected start, so that the first points are not pulled to zero. */
export function smooth(ys: readonly number[], weight: number): number[] {
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
