/** Where the parts of an interval chart lie: axes, names of places, and names at the ends of curves. Knows no elements. */
import type { ExperimentChart, ExperimentPoint } from 'src/api/schema'
import { place, type Range, rangeOf, spread, ticks } from 'src/ui/charts/scale'
import { tickText } from 'src/ui/format'

/** So many places of an axis are named themselves, and so many points of a line have whiskers; more have round numbers,
 * and a band. */
export const FEW = 8
/** Of a character in the type of the chart, in px: wide enough for bold names in a wide font. */
const CHARACTER = 7.4
const LONGEST_NAME = 22
/** What the name of a number needs along the axis, in px. */
const NUMBER_ROOM = 52
/** Names on a category axis that do not fit side by side are turned by this. */
const TURN = (40 * Math.PI) / 180

export const cut = (name: string): string =>
  name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1).trimEnd()}…` : name
export const widthOf = (name: string): number => cut(name).length * CHARACTER

export type Tick = { at: number; label: string }
export type XAxis = {
  /** Places in px from the left of the plot. */
  at: (x: number | string) => number
  ticks: Tick[]
  /** What a bar, or all bars of one place together, may take in px. */
  slot: number
}

const numbersOf = (chart: ExperimentChart): number[] =>
  [...new Set(chart.series.flatMap(({ points }) => points.map(({ x }) => Number(x))))].sort((a, b) => a - b)

export const namesOf = (chart: ExperimentChart): string[] => [
  ...new Set(chart.series.flatMap(({ points }) => points.map(({ x }) => String(x)))),
]

export function xAxis(chart: ExperimentChart, width: number): XAxis {
  if (chart.x.scale === 'category') {
    const names = namesOf(chart)
    const slot = width / names.length
    const at = (x: number | string) => (names.indexOf(String(x)) + 0.5) * slot
    return { at, slot, ticks: names.map((name) => ({ at: at(name), label: cut(name) })) }
  }
  const isLog = chart.x.scale === 'log'
  const scaled = isLog ? Math.log10 : (x: number) => x
  const places = numbersOf(chart).map(scaled)
  const gap = places.slice(1).reduce((least, one, index) => Math.min(least, one - (places[index] ?? one)), Infinity)
  const least = Number.isFinite(gap) ? gap : 1
  const lines = chart.lines.filter(({ axis }) => axis === 'x').map(({ at }) => scaled(at))
  const hasBars = chart.series.some(({ kind }) => kind === 'bars')
  const ends = [places[0] ?? 0, places.at(-1) ?? 0]
  const range = rangeOf([...places, ...lines], hasBars ? [(ends[0] ?? 0) - least / 2, (ends[1] ?? 0) + least / 2] : [])
  const at = (x: number | string) => place(scaled(Number(x)), range) * width
  const fit = Math.max(2, Math.min(FEW, Math.floor(width / NUMBER_ROOM)))
  const named = isLog || places.length <= FEW ? spread(places, fit - 1) : ticks(range, fit)
  const value = (one: number) => (isLog ? 10 ** one : one)
  return {
    at,
    slot: (least / (range.to - range.from)) * width,
    ticks: named.map((one) => ({ at: place(one, range) * width, label: tickText(Number(value(one).toPrecision(6))) })),
  }
}

/** Of the values; bars begin at zero, which is then the end of the axis where no value lies beyond it. */
export function yRange(chart: ExperimentChart): Range {
  const values = chart.series.flatMap(({ points }) => points.flatMap(({ y, low, high }) => [y, low, high]))
  const lines = chart.lines.filter(({ axis }) => axis === 'y').map(({ at }) => at)
  const hasBars = chart.series.some(({ kind }) => kind === 'bars')
  const range = rangeOf(values, hasBars ? [0, ...lines] : lines)
  if (!hasBars) return range
  const known = [...values, ...lines].filter((one) => one !== null)
  return {
    from: known.every((one) => one >= 0) ? 0 : range.from,
    to: known.every((one) => one <= 0) ? 0 : range.to,
  }
}

/** How many widths a series stands beside its place, so that those that stand at one place are around it; a line leads
 * through the places themselves. */
export function beside(chart: ExperimentChart, index: number): { shift: number; of: number } {
  const upright = chart.series
    .map(({ kind }, at) => ({ kind, at }))
    .filter(({ kind }) => kind === 'bars' || (kind === 'points' && chart.x.scale === 'category'))
  const own = upright.findIndex(({ at }) => at === index)
  return { shift: own < 0 ? 0 : own - (upright.length - 1) / 2, of: Math.max(1, upright.length) }
}

/** Whether each series is named where it ends: over numbers, where there is room beside the plot. */
export const hasEnds = (chart: ExperimentChart, width: number): boolean =>
  chart.x.scale !== 'category' && width >= 520 && chart.series.every(({ kind }) => kind !== 'bars')

export type Box = { left: number; right: number; top: number; bottom: number; turned: boolean }

/** The room around the plot in px. */
export function margins(chart: ExperimentChart, width: number, values: readonly string[]): Box {
  const names = chart.x.scale === 'category' ? namesOf(chart) : []
  const longest = Math.max(0, ...names.map(widthOf))
  const left = Math.max(0, ...values.map(widthOf)) + 14
  const right = hasEnds(chart, width) ? Math.max(0, ...chart.series.map(({ name }) => widthOf(name))) + 14 : 12
  const slot = (width - left - right) / Math.max(1, names.length)
  const turned = longest > slot - 6
  return {
    turned,
    // The first turned name leans out to the left.
    left: turned ? Math.max(left, longest * Math.cos(TURN) - slot / 2 + 4) : left,
    right,
    top: 30,
    bottom: (turned ? longest * Math.sin(TURN) + 16 : 22) + 22,
  }
}

/** The same places in their order, moved so that no two are nearer than `least`, and none lies beyond `most`. */
export function apart(places: readonly number[], least: number, most: number): number[] {
  const moved = [...places]
  const ranked = places.map((_, index) => index).sort((a, b) => (places[a] ?? 0) - (places[b] ?? 0))
  ranked.forEach((index, rank) => {
    const before = ranked[rank - 1]
    if (before !== undefined) moved[index] = Math.max(moved[index] ?? 0, (moved[before] ?? 0) + least)
  })
  let limit = Math.max(most, least * (places.length - 1))
  for (const index of ranked.toReversed()) {
    moved[index] = Math.min(moved[index] ?? 0, limit)
    limit = (moved[index] ?? 0) - least
  }
  return moved
}

export type Bounded = ExperimentPoint & { low: number; high: number }
export const isBounded = (point: ExperimentPoint): point is Bounded => point.low !== null && point.high !== null
