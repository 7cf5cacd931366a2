import { cleanup, render, screen, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import { bars, draws } from 'src/testing/experiment'
import { IntervalChart } from 'src/ui/charts/IntervalChart'
import { afterEach, expect, test } from 'vitest'

afterEach(cleanup)

test('a chart says what it shows, and its drawing is silent', () => {
  const { container } = render(<IntervalChart chart={bars} />)
  expect(screen.getByRole('figure', { name: 'Win rate by method: Win rate, over Method' })).toBeDefined()
  expect([...container.querySelectorAll('svg')].every((one) => one.getAttribute('aria-hidden') === 'true')).toBe(true)
})

test('an interval is drawn where there is one', () => {
  const { container } = render(<IntervalChart chart={bars} />)
  expect(container.querySelectorAll('title + rect')).toHaveLength(4)
  expect(container.querySelectorAll('[data-whisker]')).toHaveLength(2)
})

test('a line with many intervals has a band instead', () => {
  const points = Array.from({ length: 12 }, (_, x) => ({ x, y: x, low: x - 1, high: x + 1 }))
  const chart = { ...draws, x: { label: 'Step', scale: 'linear' as const }, lines: [] }
  const { container } = render(<IntervalChart chart={{ ...chart, series: [{ name: 's', kind: 'line', points }] }} />)
  expect(container.querySelectorAll('[class*=band]')).toHaveLength(1)
  expect(container.querySelectorAll('[data-whisker]')).toHaveLength(0)
})

test('a sixth series is told from the first by its dash', () => {
  const points = [1, 2].map((x) => ({ x, y: x, low: null, high: null }))
  const series = Array.from({ length: 6 }, (_, n) => ({ name: `s${n}`, kind: 'line' as const, points }))
  const { container } = render(<IntervalChart chart={{ ...draws, series, lines: [] }} />)
  const looks = [...container.querySelectorAll('path[stroke-dasharray]')].map(
    (path) => `${path.getAttribute('stroke')} ${path.getAttribute('stroke-dasharray')}`,
  )
  expect([looks.length, new Set(looks).size]).toEqual([6, 6])
})

test('every number is in the table, with its interval in the same digits', async () => {
  render(<IntervalChart chart={draws} />)
  await userEvent.click(screen.getByRole('button', { name: 'Show Best of n as table' }))
  const table = screen.getByRole('table', { name: 'Best of n' })
  expect(
    within(table)
      .getAllByRole('columnheader')
      .map((one) => one.textContent),
  ).toEqual(['Completions drawn', 'expected', 'measured'])
  const cells = within(table)
    .getAllByRole('row')
    .map((row) =>
      within(row)
        .queryAllByRole('cell')
        .map((one) => one.textContent),
    )
  expect(cells[2]).toEqual(['4', '0.800', '0.780 [0.750, 0.810]'])
  await userEvent.click(screen.getByRole('button', { name: 'Show Best of n as chart' }))
  expect(screen.queryByRole('table')).toBeNull()
})
