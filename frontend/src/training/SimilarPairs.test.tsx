import { cleanup, screen, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import type { SimilarPair, Snapshot, SnapshotSimilarity } from 'src/api/schema'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import { SimilarPairs } from 'src/training/SimilarPairs'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const snapshot = { id: 's1', number: 3, kind: 'preferences', counts: { train: 40 } } as Snapshot
const job = { id: 'j1', number: 7, method: 'evaluate', title: 'Similar pairs of v3' }
const model = { id: 'm1', name: 'sft' }

const pair = (id: string, more: Partial<SimilarPair> = {}): SimilarPair => ({
  id,
  comparison: `c-${id}`,
  prompt: [{ role: 'user', content: `Is ${id} a colour?` }],
  chosen: 'Yes, <b>it</b> is.',
  rejected: 'Yes, it was.',
  ches: 12,
  ches_normalised: 3.5,
  cosine: 0.98,
  tokens_chosen: 5,
  tokens_rejected: 4,
  ...more,
})

const part = (decile: number) => ({
  decile,
  pairs: 4,
  low: decile - 11,
  high: decile - 10,
  ches_normalised: decile - 10.5,
  ches: 0,
  cosine: 0.5,
  tokens: 6,
})

const measured: SnapshotSimilarity = {
  latest: { ...job, status: 'succeeded', model, reason: 'done' },
  measured: {
    job: { ...job, status: 'succeeded' },
    model,
    part: 'train',
    measured_at: '2026-05-01T12:00:00Z',
    pairs: 40,
    too_long: 2,
    deciles: Array.from({ length: 10 }, (_, index) => part(index + 1)),
    highest: [pair('red'), pair('blue', { comparison: 'c-red' }), pair('green', { comparison: null })],
  },
}

function open(similarity: SnapshotSimilarity, role = 'owner', of = snapshot) {
  const canManage = role === 'owner'
  const api = fakeApi({
    'GET session': () => ({
      body: {
        user: { id: 'u', projects: [{ slug: 'p', name: 'P', role, can_manage: canManage, can_research: true }] },
      },
    }),
    'GET projects/p/snapshots/s1/similarity': () => ({ body: similarity }),
    'GET projects/p/models': () => ({
      body: { items: [{ ...model, kind: 'policy', is_current: true }], next: null },
    }),
    'POST projects/p/jobs': () => ({ status: 201, body: { id: 'j2' } }),
    'POST projects/p/adjudication/send': () => ({ body: { matched: 1, sent: 1 } }),
  })
  openPage('/r/p/snapshots/s1', <SimilarPairs slug="p" snapshot={of} />)
  return api
}

test('what is not measured yet is measured by a job with the policy that was chosen', async () => {
  const api = open({ latest: null, measured: null })
  expect(await screen.findByText('Not measured yet')).toBeTruthy()
  await userEvent.click(await screen.findByRole('button', { name: 'Measure' }))
  expect(api.calls('POST', 'jobs')[0]?.body).toEqual({
    method: 'evaluate',
    snapshot: 's1',
    model: 'm1',
    title: 'Similar pairs of v3',
    config: { data: { part: 'train' }, evaluate: { similarity: true } },
  })
})

test('while it is measured nothing can be started, and a failure says why', async () => {
  open({ latest: { ...job, status: 'running', model, reason: '' }, measured: null })
  expect(await screen.findByText(/Being measured/)).toBeTruthy()
  expect(screen.queryByRole('button', { name: 'Measure' })).toBeNull()
  cleanup()
  open({ latest: { ...job, status: 'failed', model, reason: 'bad data' }, measured: null })
  expect(await screen.findByText(/failed: bad data/)).toBeTruthy()
  expect(await screen.findByRole('button', { name: 'Measure' })).toBeTruthy()
})

test('tenths, the pairs side by side, and texts as text', async () => {
  open(measured)
  const tenths = await screen.findByRole('list', { name: /by tenth/ })
  expect(within(tenths).getAllByRole('listitem')).toHaveLength(10)
  await userEvent.click(screen.getByText('Is red a colour?'))
  const chosen = await screen.findByRole('region', { name: 'Chosen' })
  expect(chosen.textContent).toContain('<b>it</b>')
  expect(chosen.querySelector('b')).toBeNull()
  expect(screen.getByRole('region', { name: 'Rejected' }).textContent).toContain('it was.')
})

test('what differs is marked where it is asked for', async () => {
  open(measured)
  await userEvent.click(await screen.findByText('Is red a colour?'))
  const rejected = await screen.findByRole('region', { name: 'Rejected' })
  expect(rejected.querySelector('ins')).toBeNull()
  await userEvent.click(screen.getByRole('checkbox', { name: 'Mark what differs' }))
  await vi.waitFor(() => expect(rejected.querySelector('ins')?.textContent).toContain('was'))
})

test('the remedies: a job without the top tenth, and people who look again', async () => {
  const api = open(measured)
  const link = await screen.findByRole('link', { name: /without the top tenth/ })
  const asked = new URL(link.getAttribute('href') ?? '', 'http://test').searchParams
  expect([asked.get('method'), asked.get('snapshot'), asked.get('model')]).toEqual(['dpo', 's1', 'm1'])
  expect(asked.get('set')).toBe('dpo.drop_similar=0.1')
  await userEvent.click(screen.getByRole('button', { name: 'Send 1 comparison to adjudication' }))
  await userEvent.click(screen.getByRole('button', { name: 'Send them' }))
  expect(await screen.findByText('1 comparison waits for a ruling.')).toBeTruthy()
  expect(api.calls('POST', 'adjudication/send')[0]?.body).toMatchObject({ comparisons: ['c-red'] })
})

test('who only reads starts nothing', async () => {
  open(measured, 'viewer')
  expect(await screen.findByText('Is red a colour?')).toBeTruthy()
  expect(screen.queryByRole('link', { name: /without the top tenth/ })).toBeNull()
  expect(screen.queryByRole('button', { name: /Measure|adjudication/ })).toBeNull()
})

test('a snapshot without pairs asks nothing', () => {
  const api = open(measured, 'owner', { ...snapshot, kind: 'demonstrations' })
  expect(api.asked).toEqual([])
})
