import { form } from 'src/testing/tasks'
import {
  bodyOf,
  draftOf,
  emptyDraft,
  join,
  missing,
  move,
  place,
  placeAt,
  pointText,
  putBefore,
  takeBack,
} from 'src/ui/answer/answer'
import { expect, test } from 'vitest'

test('points of a scale have words that mirror each other', () => {
  const words = (points: number) => Array.from({ length: points }, (_, index) => pointText(index + 1, points))
  expect(words(2)).toEqual(['A is better', 'B is better'])
  expect(words(5)).toEqual(['A is much better', 'A is better', 'About equal', 'B is better', 'B is much better'])
  expect(words(6).slice(0, 3)).toEqual(['A is much better', 'A is better', 'A is slightly better'])
  for (const points of [2, 3, 4, 5, 6, 7]) expect(new Set(words(points)).size).toBe(points)
})

test('a ranking is placed, tied, moved, joined and taken back', () => {
  const three = place(place(place([], 'C', false), 'A', false), 'D', true)
  expect(three).toEqual([['C'], ['A', 'D']])
  expect(takeBack(three)).toEqual([['C'], ['A']])
  expect(move(three, 'D', -1)).toEqual([['C'], ['D'], ['A']])
  expect(move(three, 'C', 1)).toEqual([['A', 'D'], ['C']])
  expect(move(three, 'C', -1)).toEqual(three)
  expect(join(three, 0)).toEqual([['A', 'C', 'D']])
  expect(placeAt(three, 'D', 1, true)).toEqual([['C', 'D'], ['A']])
  expect(placeAt(three, 'D', 1, false)).toEqual([['D'], ['C'], ['A']])
  expect(placeAt(three, 'C', 0, true)).toEqual([['A', 'D']])
})

test('the body has what the form asks for and nothing else', () => {
  const full = {
    ...emptyDraft(),
    choice: 'left' as const,
    rationale: ' ',
    first_ratings: { A: 1 },
    criteria: { x: 'left' },
  }
  expect(bodyOf(form(), full)).toEqual({ choice: 'left' })
  expect(bodyOf(form({ kind: 'scale' }), { ...full, choice: 'both_bad' })).toEqual({ choice: 'both_bad' })
  expect(bodyOf(form({ kind: 'scale' }), { ...full, choice: null, scale: 2 })).toEqual({ scale: 2 })
})

test('a stored answer comes back as the draft that makes it', () => {
  const asked = form({ kind: 'scale', read_first: true })
  const answer = { scale: 4, first_ratings: { A: 3, B: 5 }, rationale: 'So.' }
  const draft = draftOf(answer)
  expect(missing(asked, draft, 2)).toBeNull()
  expect(bodyOf(asked, draft)).toEqual(answer)
})

test('a rating of nothing but “not applicable” is not whole', () => {
  const asked = form({ kind: 'rating' })
  expect(missing(asked, { ...emptyDraft(), ratings: { A: { overall: 3 }, B: { overall: null } } }, 2)).toBe(
    'ratings.B.overall',
  )
})

test('a letter is put into a gap as the places stand when it is let go', () => {
  const order = [['A'], ['B', 'C'], ['D']]
  expect(putBefore(order, 'D', 0)).toEqual([['D'], ['A'], ['B', 'C']])
  expect(putBefore(order, 'A', 3)).toEqual([['B', 'C'], ['D'], ['A']])
  expect(putBefore(order, 'A', 1)).toEqual(order)
  expect(putBefore(order, 'C', 3)).toEqual([['A'], ['B'], ['D'], ['C']])
  expect(putBefore(order, 'C', 1)).toEqual([['A'], ['C'], ['B'], ['D']])
})
