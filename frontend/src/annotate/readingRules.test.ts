import { type Attention, whyHeld } from 'src/annotate/readingRules'
import { task } from 'src/testing/tasks'
import { expect, test } from 'vitest'

const attention = (more: Partial<Attention> = {}): Attention => ({ single: null, ms: 0, unread: [], ...more })
const below = (letter: string) => ({ letter, hidden: false })
const toEnd = task(1, { read_to_end: true })

test('a project without rules takes an answer at once', () => {
  expect(whyHeld(task(1), attention({ unread: [below('A'), below('B')] }))).toBeNull()
})

test('what is not read to its end is named', () => {
  expect(whyHeld(toEnd, attention({ unread: [below('B')] }))).toBe('Read both responses first: B has more below.')
  expect(whyHeld(toEnd, attention({ unread: [below('A'), below('B')] }))).toContain('A and B have more below.')
  expect(whyHeld(toEnd, attention({ single: 0, unread: [below('A')] }))).toContain('the response first: A')
  expect(whyHeld(toEnd, attention())).toBeNull()
})

test('one that is behind a tab, or one of many, is not said to go on below', () => {
  const unseen = 'the end of B was not on the screen'
  expect(whyHeld(toEnd, attention({ unread: [{ letter: 'B', hidden: true }] }))).toContain(unseen)
  const three = task(1, { read_to_end: true, completions: ['one', 'two', 'three'] })
  expect(whyHeld(three, attention({ unread: [below('B')] }))).toContain(unseen)
})

test('the seconds that are left are said until they are over', () => {
  const slow = task(1, { min_reading_seconds: 10 })
  expect(whyHeld(slow, attention({ ms: 5_500 }))).toBe(
    'Read on first: this project asks for 10 s a comparison, 5 s to go.',
  )
  expect(whyHeld(slow, attention({ ms: 9_999 }))).toContain('1 s to go')
  expect(whyHeld(slow, attention({ ms: 10_000 }))).toBeNull()
  expect(whyHeld(slow, attention({ ms: 0, single: 0 }))).toBeNull()
})

test('what was answered before was read before', () => {
  const again = task(1, { read_to_end: true, min_reading_seconds: 10, answer: { choice: 'left' } })
  expect(whyHeld(again, attention({ unread: [below('B')] }))).toBeNull()
})
