import { differences } from 'src/ui/content/diff'
import { expect, test } from 'vitest'

const own = (parts: { text: string; own: boolean }[]) => parts.filter((part) => part.own).map(({ text }) => text)
const whole = (parts: { text: string }[]) => parts.map(({ text }) => text).join('')
const words = (seed: number, count: number) =>
  Array.from({ length: count }, (_, index) => `w${(index * 7919 + seed * 104729) % 99991}`).join(' ')

test('each side marks the words that the other lacks', () => {
  const found = differences('Use git reset --soft now.', 'Use git revert now.')
  expect([found.by, own(found.left), own(found.right)]).toEqual(['word', ['reset --soft '], ['revert']])
  expect([whole(found.left), whole(found.right)]).toEqual(['Use git reset --soft now.', 'Use git revert now.'])
})

test('equal texts have no mark', () => {
  const { left, right } = differences('The same.', 'The same.')
  expect([own(left), own(right)]).toEqual([[], []])
})

test('texts that share sentences only are marked by sentence', () => {
  const shared = 'This sentence is in both of them.'
  const found = differences(`${words(1, 400)}. ${shared} `, `${words(2, 400)}. ${shared} `, 1)
  expect(found.by).toBe('sentence')
  expect(own(found.left).join('')).not.toContain(shared)
})

test('unrelated long texts are given up in time', () => {
  const [left, right] = [words(1, 3000), words(2, 3000)]
  const before = performance.now()
  const found = differences(left, right)
  expect(performance.now() - before).toBeLessThan(1500)
  expect(found).toEqual({ by: 'nothing', left: [{ text: left, own: false }], right: [{ text: right, own: false }] })
})
