import { pollPause, readOn } from 'src/api/live'
import { expect, test } from 'vitest'

const rows = [1, 2, 3, 4, 5].map((seq) => ({ seq }))
const server = (limit: number, terminal: boolean) => async (after: number | null) => {
  const items = rows.filter((row) => row.seq > (after ?? 0)).slice(0, limit)
  return { items, next_after: items.at(-1)?.seq ?? after, terminal }
}

test('reading goes on until nothing is left', async () => {
  const feed = await readOn(undefined, server(2, true))
  expect(feed).toEqual({ items: rows, after: 5, terminal: true })
})

test('a later reading adds only what is new', async () => {
  const first = { items: rows.slice(0, 3), after: 3, terminal: false }
  const feed = await readOn(first, server(100, false))
  expect(feed.items.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5])
  expect(first.items).toHaveLength(3)
})

test('an empty page ends the reading and keeps the cursor', async () => {
  const feed = await readOn({ items: rows, after: 5, terminal: false }, async () => ({
    items: [],
    next_after: null,
    terminal: true,
  }))
  expect([feed.items.length, feed.after, feed.terminal]).toEqual([5, 5, true])
})

test('the pause is short while seen, long while hidden, and doubles with failures up to a minute', () => {
  expect([pollPause(0, false), pollPause(0, true)]).toEqual([2_000, 30_000])
  expect([1, 2, 3, 9].map((failures) => pollPause(failures, false))).toEqual([4_000, 8_000, 16_000, 60_000])
  expect(pollPause(9, true)).toBe(60_000)
})
