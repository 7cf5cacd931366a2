import { cleanup, screen, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import type { RankingReport } from 'src/api/schema'
import Ranking from 'src/statistics/Ranking'
import { eloOf, onScale, rankText } from 'src/statistics/scales'
import { winCells } from 'src/statistics/WinRates'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import { ranking, rankingFit, strength, system } from 'src/testing/statistics'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const two = [
  system('best', strength(Math.LN10 / 2, { rank_high: 2 })),
  system('base', strength(-Math.LN10 / 2, { rank: 2, rank_low: 2, rank_high: 2 })),
]

const serve = (body: RankingReport) =>
  fakeApi({
    'GET projects/p': () => ({ body: { form: { criteria: [] } } }),
    'GET projects/p/statistics/ranking': () => ({ body }),
  })

test('400 points are odds of ten to one, and the reference has 1000', () => {
  expect([eloOf(0), eloOf(Math.LN10)]).toEqual([1000, expect.closeTo(1400)])
  expect(onScale(strength(1), 1).value).toBe(1000)
  expect(onScale(null, 1)).toEqual({ value: null, low: null, high: null })
})

test('systems that may change places share ranks', () => {
  expect(rankText(strength(1, { rank_low: 1, rank_high: 3 }))).toBe('1–3')
  expect(rankText(strength(1))).toBe('1')
  expect(rankText(strength(null, { rank: null }))).toBe('–')
})

test('a reference system turns logits into the scale on which it has 1000', async () => {
  serve(ranking(two))
  const keys = userEvent.setup()
  openPage('/r/p/ranking', <Ranking />)
  const table = within(await screen.findByRole('table', { name: 'Strengths' }))
  expect(table.getByRole('cell', { name: '1–2' })).toBeDefined()
  expect(table.getByRole('cell', { name: '1.15 [0.95, 1.35]' })).toBeDefined()
  await keys.selectOptions(screen.getByLabelText('Scale'), 'Elo, base = 1000')
  expect(table.getByRole('cell', { name: '1400 [1365, 1435]' })).toBeDefined()
  expect(table.getByRole('cell', { name: '1000 [965, 1035]' })).toBeDefined()
})

test('controls are asked for together, and stand beside the plain strengths', async () => {
  const api = serve(ranking(two.map((one) => ({ ...one, controlled: strength(0) }))))
  const keys = userEvent.setup()
  openPage('/r/p/ranking?controls=length', <Ranking />)
  await keys.click(await screen.findByRole('checkbox', { name: 'Side' }))
  const headers = await screen.findAllByRole('columnheader', { name: /Plain|Controlled/ })
  expect(headers.map((one) => one.textContent)).toEqual(['Plain', 'Controlled'])
  expect(api.asked.at(-1)?.query.get('controls')).toBe('side,length')
})

test('a graph in pieces is said in words', async () => {
  serve(
    ranking([two[0] as (typeof two)[0], system('island', strength(0), { component: 1 })], {
      fit: rankingFit({ warnings: ['not_connected'] }),
    }),
  )
  openPage('/r/p/ranking', <Ranking />)
  expect(await screen.findByText(/ranks compare within a group only/)).toBeDefined()
  expect(screen.getByRole('columnheader', { name: 'Group' })).toBeDefined()
})

test('a win rate leans to the colour of who wins, and says how sure it is', () => {
  const [[diagonal, cell] = []] = winCells(ranking(two))
  expect(diagonal).toBeNull()
  expect(cell).toEqual({ shade: 0.5, text: '75', detail: '75 % [60, 90], n 40. The model expects 70 %.' })
  const report = ranking(two)
  const never = winCells({ ...report, win_rates: { ...report.win_rates, rate: [[null, null]] } })
  expect(never[0]?.[1]).toEqual({ shade: null, text: '–', detail: 'These two never met. The model expects 70 %.' })
})

test('a figure of a report has a file of its own', async () => {
  serve(ranking(two))
  openPage('/r/p/ranking?model=davidson', <Ranking />)
  const link = await screen.findByRole('link', { name: 'Download Win rates as CSV' })
  expect(link.getAttribute('href')).toBe('/api/v1/projects/p/statistics/ranking?model=davidson&as=csv&table=win_rates')
})

test('without votes there is nothing to rank, and the page says what it takes', async () => {
  serve(ranking([]))
  openPage('/r/p/ranking', <Ranking />)
  expect(await screen.findByText('Nothing to rank yet')).toBeDefined()
})
