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

const same = (one: readonly number[], other: readonly number[]): boolean =>
  one === other || (one.length === other.length && one.every((x, index) => x === other[index]))

/** Both lists in one, ascending and each number once. */
function merge(one: readonly number[], other: readonly number[]): number[] {
  const merged: number[] = []
  let [i, j] = [0, 0]
  while (i < one.length || j < other.length) {
    const next = Math.min(one[i] ?? Number.POSITIVE_INFINITY, other[j] ?? Number.POSITIVE_INFINITY)
    while (one[i] === next) i += 1
    while (other[j] === next) j += 1
    merged.push(next)
  }
  return merged
}

/**
 * All curves over one ascending x axis, null where a curve has no value. The xs of a curve ascend; curves measured at the
 * same steps, as most are, cost nothing but the comparison: a live chart does this for every point that arrives.
 */
export function align(
  curves: readonly { xs: readonly number[]; ys: readonly number[] }[],
): [number[], ...(number | null)[][]] {
  const axes: (readonly number[])[] = []
  for (const { xs } of curves) {
    if (!axes.some((axis) => same(axis, xs))) axes.push(xs)
  }
  const all = axes.reduce<number[]>((merged, xs) => merge(merged, xs), [])
  const rows = curves.map(({ xs, ys }): (number | null)[] => {
    if (ys.length === all.length && same(xs, all)) return [...ys]
    const row: (number | null)[] = new Array(all.length).fill(null)
    let place = 0
    xs.forEach((x, index) => {
      while ((all[place] ?? x) < x) place += 1
      row[place] = ys[index] ?? null
    })
    return row
  })
  return [all, ...rows]
}
