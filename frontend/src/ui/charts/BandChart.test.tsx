import { cleanup, render, screen } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import { BandChart, type BandPoint, runs } from 'src/ui/charts/BandChart'
import { afterEach, expect, test } from 'vitest'

afterEach(cleanup)

const DAY = 86_400_000
const START = Date.UTC(2026, 4, 1, 12)
const point = (days: number, value: number | null, half: number | null = 0.1): BandPoint => ({
  at: START + days * DAY,
  value,
  low: value === null || half === null ? null : value - half,
  high: value === null || half === null ? null : value + half,
})

test('a missing value breaks the line, a missing interval breaks the band', () => {
  const { container } = render(
    <BandChart
      title="Alpha"
      series={[
        {
          name: 'alpha',
          label: 'alpha',
          points: [point(0, 0.4), point(1, 0.5), point(2, null), point(3, 0.5, null), point(4, 0.6)],
        },
      ]}
    />,
  )
  const paths = [...container.querySelectorAll('path')].map((path) => path.getAttribute('d') ?? '')
  expect(paths.filter((d) => d.endsWith('Z'))).toHaveLength(2)
  expect(paths.filter((d) => d.endsWith('h 0'))).toHaveLength(4)
  expect(paths).toHaveLength(2 + 2 + 4)
  expect(paths.join()).not.toContain('NaN')
})

test('the same numbers are offered as a table', async () => {
  const keys = userEvent.setup()
  const without = { ...point(1, null), note: 'only one person has voted' }
  render(<BandChart title="Alpha" series={[{ name: 'a', label: 'alpha', points: [point(0, 0.5), without] }]} />)
  await keys.click(screen.getByRole('button', { name: 'Show Alpha as table' }))
  expect(screen.getByRole('cell', { name: '0.500 [0.400, 0.600]' })).toBeDefined()
  expect(screen.getByRole('cell', { name: '– only one person has voted' })).toBeDefined()
  expect(screen.getByText('Alpha, May 1, 2026 to May 2, 2026')).toBeDefined()
})

test('a chart without points says so', () => {
  const { container } = render(<BandChart title="Alpha" series={[{ name: 'a', label: 'alpha', points: [] }]} />)
  expect(screen.getByText('No values yet')).toBeDefined()
  expect(container.innerHTML).not.toContain('NaN')
})

test('runs are stretches of neighbours', () => {
  const even = (x: number): x is number => x % 2 === 0
  expect(runs([2, 4, 1, 6, 3, 3], even)).toEqual([[2, 4], [6]])
})
