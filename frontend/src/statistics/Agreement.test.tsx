import { cleanup, screen, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import type { AgreementReport, MatrixReport, PeopleReport } from 'src/api/schema'
import Agreement from 'src/statistics/Agreement'
import { kappaCells } from 'src/statistics/KappaMatrix'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import { figures, person, row, statistic } from 'src/testing/statistics'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const report = (more: Partial<AgreementReport> = {}): AgreementReport => ({
  definition: 'Alpha is one minus observed over expected disagreement.',
  kind: 'choice',
  full_overlap_only: false,
  split: null,
  overall: figures(statistic(0.423, { low: 0.379, high: 0.467 })),
  rows: [],
  skipped: 3,
  cannot_judge: 1,
  aggregator: 'dawid_skene',
  held_out: [
    { method: 'majority', log_loss: 0.61 },
    { method: 'dawid_skene', log_loss: 0.52 },
  ],
  ceiling: { best: statistic(0.8), upper: statistic(0.83), agreement: statistic(0.73) },
  ...more,
})

const matrix: MatrixReport = {
  definition: 'Kappa of two.',
  weights: 'identity',
  min_common: 20,
  total_people: 3,
  people: ['ann', 'ada'].map((name) => ({ id: name, name, pseudonym: name, votes: 40 })),
  kappa: [
    [null, 0.62],
    [0.62, null],
  ],
  se: [
    [null, 0.1],
    [0.1, null],
  ],
  n_common: [
    [40, 30],
    [30, 40],
  ],
  reason: [
    [null, null],
    [null, null],
  ],
}

const serve = (agreement: AgreementReport = report()) =>
  fakeApi({
    'GET projects/p/statistics/agreement': ({ query }) => ({
      body: query.get('split') === null ? agreement : { ...agreement, rows: [row('one', { title: 'Accuracy' })] },
    }),
    'GET projects/p/statistics/matrix': () => ({ body: matrix }),
    'GET projects/p/statistics/people': () => ({
      body: { definition: 'People.', lower_quartile: null, people: [person('ann')] } satisfies PeopleReport,
    }),
  })

const card = async (name: string) => within(await screen.findByRole('region', { name }))

test('coefficients stand with their intervals, and the shares of the answers beside them', async () => {
  serve()
  openPage('/r/p/agreement', <Agreement />)
  const overall = await card('Agreement')
  expect(await overall.findByText('[0.379, 0.467]')).toBeDefined()
  expect(overall.getByText('Gwet AC1')).toBeDefined()
  expect(overall.getByText('A is better')).toBeDefined()
  expect(overall.getByText('3, of which 1 could not be judged')).toBeDefined()
})

test('what is undefined says why, in words', async () => {
  serve(report({ overall: figures(statistic(null, { reason: 'one_class' })) }))
  openPage('/r/p/agreement', <Agreement />)
  expect(await screen.findByText('Undefined, because all votes are the same.')).toBeDefined()
})

test('each figure is a file, asked for as it is shown, and says how it is defined', async () => {
  serve()
  openPage('/r/p/agreement?weights=ordinal', <Agreement />)
  const found = await card('Annotator by annotator')
  const link = await found.findByRole('link', { name: 'Download Annotator by annotator as CSV' })
  expect(link.getAttribute('href')).toBe('/api/v1/projects/p/statistics/matrix?weights=ordinal&as=csv')
  expect(await found.findByText('Kappa of two.')).toBeDefined()
})

test('a split is kept in the address', async () => {
  const api = serve()
  const keys = userEvent.setup()
  const { address } = openPage('/r/p/agreement', <Agreement />)
  await keys.selectOptions(await screen.findByLabelText('Split by'), 'guideline')
  expect(address()).toContain('split=guideline')
  expect(api.asked.some(({ query }) => query.get('split') === 'guideline')).toBe(true)
})

test('a report that cannot be read keeps its card, its neighbours and a way to try again', async () => {
  fakeApi({
    'GET projects/p/statistics/agreement': () => ({ body: report() }),
    'GET projects/p/statistics/matrix': () => ({ status: 403, body: { code: 'forbidden', message: 'No.' } }),
    'GET projects/p/statistics/people': () => ({ body: { definition: '', lower_quartile: null, people: [] } }),
  })
  openPage('/r/p/agreement', <Agreement />)
  const broken = await card('Annotator by annotator')
  expect(await broken.findByText("Couldn't load these figures.")).toBeDefined()
  expect(broken.getByRole('button', { name: 'Try again' })).toBeDefined()
  expect(await screen.findByText('[0.379, 0.467]')).toBeDefined()
})

test('a cell says kappa, interval and how many are shared; without kappa, why', () => {
  const [[diagonal, first] = [], [other] = []] = kappaCells({
    ...matrix,
    kappa: [
      [null, 0.62],
      [null, null],
    ],
    reason: [
      [null, null],
      ['too_few_common', null],
    ],
  })
  expect(diagonal).toBeNull()
  expect(first).toEqual({ shade: 0.62, text: '0.62', detail: 'kappa 0.62 [0.42, 0.82], 30 in common' })
  expect(other).toEqual({
    shade: null,
    text: '–',
    detail: 'Undefined, because too few comparisons are shared. 30 in common',
  })
})
