import { expect, test } from 'vitest'

const SOURCES = import.meta.glob<string>(['/src/**/*.{ts,tsx}', '!/src/**/*.test.{ts,tsx}'], {
  query: '?raw',
  import: 'default',
  eager: true,
})

test('no source writes HTML from a string', () => {
  const bad = Object.entries(SOURCES).filter(([, text]) =>
    /innerHTML|outerHTML|insertAdjacentHTML|document\.write/.test(text),
  )
  expect(bad.map(([path]) => path)).toEqual([])
  expect(Object.keys(SOURCES).length).toBeGreaterThan(50)
})
