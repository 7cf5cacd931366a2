import { bars, draws } from 'src/testing/experiment'
import { apart, beside, hasEnds, margins, xAxis, yRange } from 'src/ui/charts/intervals'
import { expect, test } from 'vitest'

test('categories share the axis, in the order in which they come', () => {
  const axis = xAxis(bars, 200)
  expect([axis.at('SFT'), axis.at('DPO'), axis.slot]).toEqual([50, 150, 100])
  expect(axis.ticks.map(({ label }) => label)).toEqual(['SFT', 'DPO'])
})

test('on a logarithmic axis equal factors are equal distances, and the places are named', () => {
  const axis = xAxis(draws, 400)
  const at = [1, 4, 16, 64].map(axis.at)
  const gaps = at.slice(1).map((one, index) => one - (at[index] ?? 0))
  expect(gaps).toEqual([expect.closeTo(gaps[0] ?? 0), expect.closeTo(gaps[0] ?? 0), expect.closeTo(gaps[0] ?? 0)])
  expect(axis.ticks.map(({ label }) => label)).toEqual(['1', '4', '16', '64'])
  expect(axis.ticks.map(({ at: place }) => place)).toEqual(at.map((place) => expect.closeTo(place)))
})

test('where there is less room fewer places are named, both ends among them', () => {
  const labels = xAxis(draws, 110).ticks.map(({ label }) => label)
  expect(labels).toEqual(['1', '64'])
})

test('a linear axis with many places has round numbers, and a single place lies in the middle', () => {
  const points = Array.from({ length: 13 }, (_, index) => ({ x: index * 7, y: index, low: null, high: null }))
  const chart = { ...draws, x: { label: 'Step', scale: 'linear' as const }, lines: [] }
  const many = xAxis({ ...chart, series: [{ name: 's', kind: 'line', points }] }, 500)
  expect(many.ticks.map(({ label }) => label)).toEqual(['0', '20', '40', '60', '80'])
  const one = xAxis({ ...chart, series: [{ name: 's', kind: 'bars', points: points.slice(2, 3) }] }, 500)
  expect(one.at(14)).toBe(250)
})

test('bars begin at zero, other series where they are; reference lines are in sight', () => {
  expect(yRange(bars).from).toBe(0)
  expect(yRange(bars).to).toBeGreaterThan(0.7)
  expect(yRange(draws).from).toBeGreaterThan(0)
  const below = bars.series.map((one) => ({
    ...one,
    points: one.points.map((p) => ({ ...p, y: -1, low: null, high: null })),
  }))
  expect(yRange({ ...bars, series: below, lines: [] }).to).toBe(0)
  expect(yRange({ ...draws, lines: [{ axis: 'y', at: 3, label: 'budget' }] }).to).toBeGreaterThan(3)
})

test('bars of one place stand beside each other, and a line leads through the places', () => {
  expect([0, 1].map((index) => beside(bars, index))).toEqual([
    { shift: -0.5, of: 2 },
    { shift: 0.5, of: 2 },
  ])
  expect(beside(draws, 0).shift).toBe(0)
})

test('series are named at their ends over numbers where there is room, else in a legend', () => {
  expect([hasEnds(draws, 600), hasEnds(draws, 400), hasEnds(bars, 600)]).toEqual([true, false, false])
})

test('names that do not fit side by side are turned, and get the room that they then need', () => {
  expect(margins(bars, 600, ['0.8']).turned).toBe(false)
  const long = bars.series.map((one) => ({
    ...one,
    points: one.points.map((p) => ({ ...p, x: `${p.x} with many words` })),
  }))
  const room = margins({ ...bars, series: long }, 260, ['0.8'])
  expect(room.turned).toBe(true)
  expect(room.bottom).toBeGreaterThan(margins(bars, 260, ['0.8']).bottom)
})

test('names keep their order and their distance, and stay on the plot', () => {
  expect(apart([20, 80], 15, 100)).toEqual([20, 80])
  expect(apart([50, 51, 50], 15, 100)).toEqual([50, 80, 65])
  expect(apart([100, 99, 98], 15, 100)).toEqual([100, 85, 70])
  expect(apart([], 15, 100)).toEqual([])
})
