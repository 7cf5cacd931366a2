/** What a chart draws, as plain numbers: smoothing, joining on the x axis, captions. */

export type Curve = {
  name: string
  label: string
  xs: readonly number[]
  ys: readonly number[]
  /** Sparse figures that are averages already, such as evaluations: drawn as measured, with their points. */
  sparse?: boolean
}

/** A curve of this many points or fewer is drawn as measured. */
const FEW_POINTS = 5

/** Exponential smoothing with a corrected start, so that the first points are not pulled to zero. A short curve gets less
 * of it than asked for: there is little to average over yet. */
export function smooth(ys: readonly number[], asked: number): readonly number[] {
  const weight = Math.min(asked, 1 - FEW_POINTS / ys.length)
  if (weight <= 0) return ys
  let sum = 0
  let norm = 0
  return ys.map((y) => {
    sum = sum * weight + y * (1 - weight)
    norm = norm * weight + (1 - weight)
    return sum / norm
  })
}

function same(one: readonly number[], other: readonly number[]): boolean {
  if (one === other) return true
  if (one.length !== other.length) return false
  for (let index = 0; index < one.length; index += 1) if (one[index] !== other[index]) return false
  return true
}

/** Both lists in one, ascending and each number once. */
function merge(one: readonly number[], other: readonly number[]): readonly number[] {
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

export type Aligned = readonly [readonly number[], ...(readonly (number | null)[])[]]

/**
 * All curves over one ascending x axis, null where a curve has no value. The xs of a curve ascend. Curves measured at the
 * same steps, as most are, cost no more than a look: a live chart does this for every point that arrives.
 */
export function align(curves: readonly { xs: readonly number[]; ys: readonly number[] }[]): Aligned {
  const axes: (readonly number[])[] = []
  const axisOf = curves.map(({ xs }) => {
    const known = axes.find((axis) => same(axis, xs))
    if (!known) axes.push(xs)
    return known ?? xs
  })
  const [first = []] = axes
  const all = axes.length < 2 ? first : axes.reduce(merge, [])
  const rows = curves.map(({ xs, ys }, curve) => {
    if (axisOf[curve] === all && ys.length === all.length) return ys
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
