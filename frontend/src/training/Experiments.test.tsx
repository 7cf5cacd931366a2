import { cleanup, screen, within } from '@testing-library/react'
import type { ExperimentList } from 'src/api/schema'
import { experiment } from 'src/testing/experiment'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import ExperimentPage from 'src/training/ExperimentPage'
import Experiments from 'src/training/Experiments'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const none: ExperimentList = { items: [], broken: [], next: null }

function openList(list: ExperimentList) {
  fakeApi({ 'GET experiments': () => ({ body: list }) })
  openPage('/experiments', <Experiments />)
}

test('the list says what was asked, what became of the claims, and which ran here', async () => {
  openList({ ...none, items: [experiment] })
  const link = await screen.findByRole('link', { name: experiment.title })
  expect(link.getAttribute('href')).toBe('/experiments/methods/small')
  const row = within(link.closest('tr') as HTMLElement)
  expect(row.getByText(experiment.question)).toBeDefined()
  expect(row.getByText('1 of 3 claims hold · 1 does not · 1 undecided')).toBeDefined()
  expect(row.getByText('Small')).toBeDefined()
  expect(row.getByText('Run here')).toBeDefined()
})

test('without results the page says how to get some', async () => {
  openList(none)
  expect(await screen.findByText('No results yet')).toBeDefined()
  expect(screen.getByText(/python -m benchmarks\.loop/)).toBeDefined()
})

test('a broken file is named with its reason beside the others', async () => {
  const reason = 'seconds must be a finite number, got nan'
  openList({ ...none, items: [experiment], broken: [{ file: 'methods.full.json', origin: 'here', reason }] })
  const notice = await screen.findByRole('status')
  expect(notice.textContent).toContain('1 file cannot be read as a result:')
  expect(notice.textContent).toContain(`methods.full.json (run here): ${reason}`)
  expect(screen.getByRole('link', { name: experiment.title })).toBeDefined()
})

test('a failure can be tried again', async () => {
  fakeApi({
    'GET experiments': () => ({ status: 403, body: { code: 'forbidden', message: 'Not for you.', details: {} } }),
  })
  openPage('/experiments', <Experiments />)
  expect((await screen.findByRole('alert')).textContent).toContain("Couldn't load the experiments.")
})

function openOne(result = experiment) {
  const api = fakeApi({ 'GET experiments/:name/:setting': () => ({ body: result }) })
  openPage('/experiments/methods/small', <ExperimentPage />, '/experiments/:name/:setting')
  return api
}

test('an experiment has its question, reading, claims by word, charts, tables and the command', async () => {
  const api = openOne()
  expect(await screen.findByRole('heading', { level: 1, name: experiment.title })).toBeDefined()
  expect(api.calls('GET', 'experiments/methods/small')).toHaveLength(1)
  expect(screen.getByText(experiment.question)).toBeDefined()
  expect(screen.getByText(experiment.reading.join(' '))).toBeDefined()
  const claims = within(screen.getByRole('region', { name: 'Claims' })).getAllByRole('listitem')
  expect(claims.map((item) => item.textContent)).toEqual([
    'HoldsDPO beats the base model64.1 % [61.2, 66.9], n 1,104',
    'UndecidedPPO beats DPO−0.8 points [−4.9, 3.3]',
    'Does not holdSFT is as good as DPO−9.3 points [−13.2, −5.4]',
  ])
  expect(screen.getAllByRole('figure')).toHaveLength(2)
  expect(screen.getByText('python -m benchmarks.loop methods --setting small')).toBeDefined()
  expect(screen.getByTitle('5a'.repeat(32))).toBeDefined()
  expect(screen.getByText(/"steps": 120/)).toBeDefined()
})

test('a cell shows its interval in the same digits and what it rests on; an empty one a dash', async () => {
  openOne()
  const table = await screen.findByRole('table', { name: 'Methods' })
  expect(within(table).getByRole('columnheader', { name: 'Win rate, share' })).toBeDefined()
  const rows = within(table).getAllByRole('row').slice(1)
  const cells = rows.map((row) =>
    within(row)
      .getAllByRole('cell')
      .map((cell) => cell.textContent),
  )
  expect(cells).toEqual([
    ['DPO', '0.641 [0.600, 0.669]n 1,104', '9.800'],
    ['base', '–', '0'],
  ])
})

test('what there is none of has no card', async () => {
  openOne({ ...experiment, claims: [], reading: [], charts: [], tables: [] })
  expect(await screen.findByRole('heading', { name: 'Where the numbers come from' })).toBeDefined()
  expect(screen.queryByRole('region', { name: 'Claims' })).toBeNull()
  expect(screen.queryByRole('figure')).toBeNull()
})

test('a result that is not there says so', async () => {
  fakeApi({
    'GET experiments/:name/:setting': () => ({ status: 404, body: { code: 'not_found', message: '', details: {} } }),
  })
  openPage('/experiments/methods/small', <ExperimentPage />, '/experiments/:name/:setting')
  expect(await screen.findByText('Nothing here')).toBeDefined()
})
