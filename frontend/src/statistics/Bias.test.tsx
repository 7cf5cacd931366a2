import { cleanup, screen, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import type { BiasReport, PersonBias } from 'src/api/schema'
import Bias from 'src/statistics/Bias'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import { person, statistic } from 'src/testing/statistics'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const ann: PersonBias = {
  id: 'id-ann',
  name: 'ann',
  pseudonym: 'person-1',
  votes: 40,
  effects: [
    { bias: 'position', effect: statistic(1.2), flagged: true },
    { bias: 'length', effect: statistic(0.1), flagged: false },
  ],
  drift: statistic(null, { reason: 'no_votes' }),
  drift_flagged: false,
  windows: [
    { votes: 30, started_at: '2026-05-01T12:00:00Z', ended_at: '2026-05-02T12:00:00Z', agreement: statistic(0.8) },
  ],
}

const report = (more: Partial<BiasReport> = {}): BiasReport => ({
  definition: 'Effects are log odds.',
  votes: 120,
  prompts: 30,
  reason: null,
  warnings: [],
  effects: [{ bias: 'position', effect: statistic(0.3), pooled: statistic(0.3), tau: 0.2 }],
  consistency: {
    same: statistic(0.9),
    kappa: statistic(0.8),
    side_driven: statistic(0.1),
    accuracy: statistic(0.95),
  },
  people: [ann],
  ...more,
})

const serve = (body: BiasReport) =>
  fakeApi({
    'GET projects/p/statistics/bias': () => ({ body }),
    'GET projects/p/statistics/people': () => ({
      body: { definition: 'People.', lower_quartile: 0.75, people: [person('ann', { flags: ['accuracy'] })] },
    }),
  })

test('a person stands with each figure, its interval and what it rests on', async () => {
  serve(report())
  openPage('/r/p/bias', <Bias />)
  const table = within(await screen.findByRole('table', { name: 'Annotators' }))
  const [, first] = table.getAllByRole('row')
  expect(first?.textContent).toContain('accuracy')
  expect(first?.textContent).toContain('80.0 %[70.0, 90.0] · n 40')
  expect(first?.textContent).toContain('38 s')
})

test('another bias is shown person by person, and only what is flagged has a flag', async () => {
  serve(report())
  const keys = userEvent.setup()
  const { address } = openPage('/r/p/bias', <Bias />)
  const table = within(await screen.findByRole('table', { name: 'Person by person' }))
  expect(table.getByText('side')).toBeDefined()
  await keys.selectOptions(screen.getByLabelText('Bias'), 'length')
  expect(table.queryByText('side')).toBeNull()
  expect(table.queryByText('length')).toBeNull()
  expect(address()).toContain('bias=length')
})

test('sides that were never swapped are a reason in words, not a number', async () => {
  serve(report({ reason: 'sides_not_randomised', effects: [], people: [] }))
  openPage('/r/p/bias', <Bias />)
  expect(await screen.findByText('Undefined, because too few were shown both ways round.')).toBeDefined()
  expect(screen.getAllByText('Nobody has enough decisive votes yet.')).toHaveLength(2)
})
