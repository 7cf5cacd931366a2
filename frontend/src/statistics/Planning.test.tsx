import { cleanup, screen, waitFor, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import type { AdviceReport, ArmsReport, PlanReport } from 'src/api/schema'
import Planning, { readShare } from 'src/statistics/Planning'
import { readField } from 'src/statistics/PowerPlan'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import { statistic } from 'src/testing/statistics'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const advice: AdviceReport = {
  definition: 'A rule of thumb.',
  advice: 'more_votes',
  words: 'Ask for more votes on each comparison.',
  agreement: statistic(0.7),
  self_consistency: statistic(null, { reason: 'no_votes' }),
  ceiling: { best: statistic(0.8), upper: statistic(0.83), agreement: statistic(0.73) },
  accuracy: 0.72,
  share_of_ceiling: 0.9,
}

const plan: PlanReport = {
  definition: 'Two-sided.',
  figures: [
    { name: 'win_rate', value: 0.6, origin: 'given' },
    { name: 'icc', value: 0.1, origin: 'assumed' },
  ],
  lines: [
    { what: 'win_rate', pairs: 197, votes_per_pair: 3, votes: 591, prompts: 197, sentence: '197 pairs give it.' },
  ],
}

const arm = (name: 'chosen' | 'control', comparisons: number): ArmsReport['chosen'] => ({
  arm: name,
  comparisons,
  votes: 30,
  prompts: 10,
  mean_se: 0.2,
  information: 0.01,
  log_loss: statistic(0.6),
})

const serve = (comparisons = 0) =>
  fakeApi({
    'GET projects/p/statistics/advice': () => ({ body: advice }),
    'GET projects/p/statistics/plan': ({ query }) =>
      query.get('icc') === '2'
        ? { status: 400, body: { code: 'invalid', message: 'Refused.', details: { icc: ['Ensure it is at most 1.'] } } }
        : { body: plan },
    'GET projects/p/statistics/arms': () => ({
      body: {
        definition: 'Equal votes.',
        votes: 30,
        chosen: arm('chosen', comparisons),
        control: arm('control', comparisons),
        gain: statistic(0.04),
        reason: null,
      } satisfies ArmsReport,
    }),
  })

test('shares are typed as percent and asked for exactly', () => {
  expect([readField('win_rate', '55'), readField('half_width', '2,5'), readField('icc', '0.1')]).toEqual([
    '0.55',
    '0.025',
    '0.1',
  ])
  expect([readField('win_rate', ' '), readField('win_rate', 'half')]).toEqual(['', 'half'])
  expect([readShare('72'), readShare(''), readShare('172'), readShare('x')]).toEqual([
    0.72,
    undefined,
    undefined,
    undefined,
  ])
})

test('the advice stands with the figures that say so, and the accuracy with its share of the ceiling', async () => {
  const api = serve()
  openPage('/r/p/advice?model=72', <Planning />)
  expect(await screen.findByText('More votes')).toBeDefined()
  expect(screen.getByText('Ask for more votes on each comparison.')).toBeDefined()
  expect(screen.getByText('An accuracy of 72.0 % is 90 % of the ceiling.')).toBeDefined()
  expect(api.calls('GET', '/advice')[0]?.query.get('accuracy')).toBe('0.72')
})

test('a plan is a sentence each, and says what it rests on', async () => {
  const api = serve()
  const keys = userEvent.setup()
  const { address } = openPage('/r/p/advice', <Planning />)
  await screen.findByText('197 pairs give it.')
  await keys.type(screen.getByLabelText('Win rate to tell from a half'), '60')
  await keys.click(screen.getByRole('button', { name: 'Work it out' }))
  await waitFor(() => expect(api.calls('GET', '/plan').at(-1)?.query.get('win_rate')).toBe('0.6'))
  expect(address()).toContain('win_rate=60')
  const restsOn = within(screen.getByText('Rests on').parentElement as HTMLElement).getAllByRole('listitem')
  expect(restsOn.map((item) => item.textContent)).toEqual([
    'Win rate to tell from a half 60.0 % (given)',
    'Likeness within a prompt 0.100 (assumed)',
  ])
})

test('a figure that is refused says so at its field', async () => {
  serve()
  openPage('/r/p/advice?icc=2', <Planning />)
  const field = await screen.findByLabelText('Likeness within a prompt')
  await waitFor(() => expect(field.getAttribute('aria-invalid')).toBe('true'))
  expect(screen.getByText('Ensure it is at most 1.')).toBeDefined()
})

test('both arms stand side by side with the gain; without chosen pairs a sentence says so', async () => {
  serve(12)
  openPage('/r/p/advice', <Planning />)
  const table = within(await screen.findByRole('table', { name: 'What choosing pairs has gained' }))
  expect(table.getAllByRole('row').map((row) => row.textContent?.slice(0, 9))).toEqual([
    'PairsComp',
    'Chosen123',
    'Random co',
  ])
  cleanup()
  serve(0)
  openPage('/r/p/advice', <Planning />)
  expect(await screen.findByText(/^No pairs were chosen yet/)).toBeDefined()
})
