import { cleanup, fireEvent, render, screen, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import { type HeatCell, HeatMap } from 'src/ui/charts/HeatMap'
import { afterEach, expect, test } from 'vitest'

afterEach(cleanup)

const cell = (value: number): HeatCell => ({ shade: value, text: value.toFixed(2), detail: `kappa ${value}` })
const ENDS = { low: '−1', middle: '0', high: '1' }

function show(names: string[], cells: (HeatCell | null)[][]) {
  render(
    <HeatMap
      caption="Who agrees with whom"
      corner="Annotator"
      rows={names}
      columns={names}
      cells={cells}
      ends={ENDS}
      hint="Point at a cell."
    />,
  )
  return within(screen.getByRole('grid', { name: 'Who agrees with whom' }))
}

test('each cell is named by its row, its column and what it says', () => {
  const none = { shade: null, text: '–', detail: 'Undefined, because too few are shared.' }
  const grid = show(
    ['ann', 'ada', 'olga'],
    [
      [null, cell(0.5), none],
      [cell(0.5), null, cell(-0.25)],
      [none, cell(-0.25), null],
    ],
  )
  expect(grid.getAllByRole('columnheader').map((one) => one.textContent)).toEqual(['Annotator', 'ann', 'ada', 'olga'])
  expect(grid.getAllByRole('rowheader').map((one) => one.textContent)).toEqual(['ann', 'ada', 'olga'])
  expect(grid.getAllByRole('gridcell', { name: 'kappa 0.5' })[0]?.textContent).toBe('0.50')
  expect(grid.getAllByRole('gridcell', { name: none.detail })).toHaveLength(2)
})

test('the tab key stops once, arrows walk, and the cell is written below', async () => {
  const keys = userEvent.setup()
  const names = ['ann', 'ada', 'olga']
  const grid = show(
    names,
    names.map((_, row) => names.map((_, column) => (row === column ? null : cell((row - column) / 4)))),
  )
  expect(screen.getByText('Point at a cell.')).toBeDefined()
  await keys.tab()
  await keys.keyboard('{ArrowDown}{ArrowRight}{ArrowRight}')
  expect(document.activeElement?.getAttribute('aria-label')).toBe('kappa -0.25')
  expect(screen.getByText('ada · olga')).toBeDefined()
  await keys.keyboard('{Control>}{End}{/Control}{ArrowDown}{Home}')
  expect(document.activeElement?.getAttribute('aria-label')).toBe('kappa 0.5')
  expect(grid.getAllByRole('gridcell').filter((one) => one.tabIndex === 0)).toHaveLength(1)
  await keys.tab()
  expect(document.body.contains(document.activeElement)).toBe(true)
  expect(document.activeElement?.getAttribute('role')).not.toBe('gridcell')
})

test('sixty annotators are shown by colour, and each cell still says its number', () => {
  const names = Array.from({ length: 60 }, (_, index) => `person-${index}`)
  const grid = show(
    names,
    names.map(() => names.map((_, column) => cell(column / 60))),
  )
  const cells = grid.getAllByRole('gridcell')
  expect(cells).toHaveLength(3600)
  expect(cells[59]?.textContent).toBe('')
  expect(cells[59]?.getAttribute('aria-label')).toBe(`kappa ${59 / 60}`)
  fireEvent.pointerOver(cells[61] as HTMLElement)
  expect(screen.getByText('person-1 · person-1')).toBeDefined()
})
