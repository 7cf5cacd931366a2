import { cleanup, render, screen } from '@testing-library/react'
import { Whiskers } from 'src/ui/charts/Whiskers'
import { afterEach, expect, test } from 'vitest'

afterEach(cleanup)

type Row = { name: string; value: number | null }

test('a dot lies where its value is, and a row without value has none', () => {
  const rows: Row[] = [
    { name: 'best', value: 1 },
    { name: 'middle', value: 0 },
    { name: 'unknown', value: null },
  ]
  const { container } = render(
    <Whiskers<Row>
      caption="Strength"
      rows={rows}
      rowKey={(row) => row.name}
      columns={{
        before: [{ name: 'name', header: 'System', cell: (row) => row.name }],
        after: [{ name: 'value', header: 'Strength', cell: (row) => row.value ?? '–' }],
      }}
      marks={({ value }) => [
        { value, low: value === null ? null : value - 0.5, high: value === null ? null : value + 9 },
      ]}
      series={['plain']}
      axis={{ from: -1, to: 1, label: 'Strength (logits)', format: String, reference: 0 }}
    />,
  )
  expect(screen.getByRole('table', { name: 'Strength' })).toBeDefined()
  expect(screen.getAllByRole('row')).toHaveLength(4)
  const places = [...container.querySelectorAll<HTMLElement>('[class*=dot]')].map((dot) => dot.style.insetInlineStart)
  expect(places).toEqual(['100%', '50%'])
  expect([...container.querySelectorAll<HTMLElement>('[class*=whisker]')].map((one) => one.style.width)).toEqual([
    '25%',
    '75%',
  ])
})
