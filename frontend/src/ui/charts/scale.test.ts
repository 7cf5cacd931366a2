import { place, rangeOf, spread, ticks } from 'src/ui/charts/scale'
import { expect, test } from 'vitest'

test('ticks are round numbers inside the range', () => {
  expect(ticks({ from: 0, to: 1 })).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1].map((x) => expect.closeTo(x, 12)))
  expect(ticks({ from: -1.3, to: 1.1 }, 4)).toEqual([-1, 0, 1])
  expect(ticks({ from: 913, to: 1092 }, 4)).toEqual([950, 1000, 1050])
  expect(Object.is(ticks({ from: -1, to: 1 })[2], 0)).toBe(true)
})

test('an axis without length has one tick', () => {
  expect(ticks({ from: 3, to: 3 })).toEqual([3])
  expect(place(3, { from: 3, to: 3 })).toBe(0.5)
})

test('places are shares of the axis and never leave it', () => {
  expect([-9, 0, 0.5, 9].map((x) => place(x, { from: -1, to: 1 }))).toEqual([0, 0.5, 0.75, 1])
})

test('a range holds what it is given, and nothing that is no number', () => {
  const { from, to } = rangeOf([0.2, null, Number.NaN, 0.4], [0])
  expect([from, to]).toEqual([expect.closeTo(-0.02), expect.closeTo(0.42)])
  expect(rangeOf([])).toEqual({ from: 0, to: 1 })
  expect(rangeOf([2]).from).toBeLessThan(2)
})

test('names of places keep both ends and never crowd', () => {
  expect(spread([0, 1, 2, 3, 4, 5, 6, 7, 8], 4)).toEqual([0, 2, 4, 6, 8])
  expect(spread([0, 10, 95, 96, 100], 4)).toEqual([0, 100])
  expect([spread([], 4), spread([5], 4), spread([1, 2], 4)]).toEqual([[], [5], [1, 2]])
})
