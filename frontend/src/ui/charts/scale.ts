/** Where numbers fall on an axis, and which of them are written at it. Knows no pixels: places are shares of the axis. */

export type Range = { from: number; to: number }

/** Steps that people count in. */
const STEPS = [1, 2, 2.5, 5, 10]

/** The share of the axis at which `x` lies, cut to the axis. */
export function place(x: number, { from, to }: Range): number {
  return to === from ? 0.5 : Math.min(1, Math.max(0, (x - from) / (to - from)))
}

/** Round numbers inside the range, about `wanted` of them. */
export function ticks({ from, to }: Range, wanted = 5): number[] {
  const span = to - from
  if (!(span > 0) || !Number.isFinite(span)) return [from]
  const size = 10 ** Math.floor(Math.log10(span / wanted))
  const step = size * (STEPS.find((one) => span / (one * size) <= wanted) ?? 10)
  const first = Math.ceil(from / step - 1e-9)
  const last = Math.floor(to / step + 1e-9)
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step + 0)
}

/** A range that holds all these numbers, with a little room; `around` belongs to it in any case. */
export function rangeOf(numbers: readonly (number | null | undefined)[], around: readonly number[] = []): Range {
  const known = [...numbers, ...around].filter((x): x is number => typeof x === 'number' && Number.isFinite(x))
  if (known.length === 0) return { from: 0, to: 1 }
  const low = known.reduce((a, b) => Math.min(a, b))
  const high = known.reduce((a, b) => Math.max(a, b))
  const room = (high - low || Math.abs(high) || 1) * 0.05
  return { from: low - room, to: high + room }
}

/** Those of the ascending places that have room for their names: both ends, and what is a part of the axis from others. */
export function spread(places: readonly number[], parts: number): number[] {
  const first = places[0]
  const last = places.at(-1)
  if (first === undefined || last === undefined || first === last) return places.slice(0, 1)
  const room = (last - first) / parts
  const kept = [first]
  for (const place of places) {
    if (place - (kept.at(-1) ?? first) >= room && last - place >= room) kept.push(place)
  }
  return [...kept, last]
}
