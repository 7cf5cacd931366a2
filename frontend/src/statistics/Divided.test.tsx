import { cleanup, screen, waitFor } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import type { DividedComparison, DividedList } from 'src/api/schema'
import Divided from 'src/statistics/Divided'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const ballot = (annotator: string, choice: string, rationale = ''): DividedComparison['ballots'][number] => ({
  annotator,
  choice,
  both_bad: false,
  strength: null,
  answer: {},
  reasons: [],
  rationale,
  active_ms: 12_000,
  created_at: '2026-05-01T12:00:00Z',
})

const divided: DividedComparison = {
  id: 'one',
  prompt: [{ role: 'user', content: 'Why?' }],
  category: 'code',
  completions: ['a', 'b'].map((label) => ({ label, text: `Text ${label}`, source: `model ${label}`, finish: 'end' })),
  votes: { a: 1, b: 1, tie: 0 },
  votes_counted: 2,
  votes_wanted: 2,
  state: 'disputed',
  label: null,
  prob: 0.5,
  ranking: null,
  priority: 0,
  frozen: false,
  share: 0.5,
  top_share: 0.5,
  posterior: 0.52,
  ballots: [{ ...ballot('person-1', 'a', 'It is right.'), reasons: ['wrong', 'gone'] }, ballot('person-2', 'b')],
}

const serve = (items: DividedComparison[]) =>
  fakeApi({
    'GET session': () => ({
      body: { user: { id: 'u', projects: [{ slug: 'p', name: 'P', role: 'owner', can_research: true }] } },
    }),
    'GET projects/p': () => ({ body: { slug: 'p', form: { reasons: [{ key: 'wrong', label: 'A mistake' }] } } }),
    'GET projects/p/statistics/worst': () => ({
      body: { definition: 'Least sure.', items, next: null } satisfies DividedList,
    }),
    'POST projects/p/adjudication/send': () => ({ body: { matched: 1, sent: 1 } }),
  })

test('votes stand side by side under pseudonyms, below the texts they are about', async () => {
  serve([divided])
  openPage('/r/p/worst', <Divided />)
  expect(await screen.findByText('Text a')).toBeDefined()
  expect(screen.getAllByRole('row').map((row) => row.textContent)).toEqual([
    expect.stringContaining('Vote'),
    expect.stringMatching(/^person-1A is better.*It is right\./),
    expect.stringMatching(/^person-2B is better/),
  ])
  expect(screen.getByText('52 %')).toBeDefined()
  // In the words of the form; one that the form has no more keeps its key.
  expect(screen.getByText('A mistake, gone')).toBeDefined()
})

test('what is chosen is sent to adjudication with a reason', async () => {
  const api = serve([divided])
  const keys = userEvent.setup()
  openPage('/r/p/worst', <Divided />)
  await keys.click(await screen.findByRole('checkbox', { name: 'Choose one' }))
  await keys.click(screen.getByRole('button', { name: 'Send 1 to adjudication' }))
  await keys.type(screen.getByRole('textbox', { name: 'Reason' }), 'Look again.')
  await keys.click(screen.getByRole('button', { name: 'Send them' }))
  await waitFor(() =>
    expect(api.calls('POST', '/send')[0]?.body).toEqual({ comparisons: ['one'], reason: 'Look again.' }),
  )
  expect(await screen.findByText('1 comparison was sent.')).toBeDefined()
})

test('without votes the page says what comes here', async () => {
  serve([])
  openPage('/r/p/worst', <Divided />)
  expect(await screen.findByText('Nothing to show yet')).toBeDefined()
})
