import { cleanup, screen } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import type { PromptReach } from 'src/api/schema'
import ErasePrompt from 'src/setup/ErasePrompt'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import { afterEach, expect, test, vi } from 'vitest'
import { Route } from 'wouter'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const snapshot = { id: 's1', number: 3, name: 'week 47', created_at: '2026-05-01T12:00:00Z' }

const reach: PromptReach = {
  prompt: 'x',
  messages: [{ role: 'user', content: 'Who is Ingeborg?' }],
  later: 0,
  erasure: null,
  completions: 4,
  comparisons: 2,
  frozen: 1,
  votes: 5,
  rounds: [],
  snapshots: [{ snapshot, comparisons: 1 }],
  jobs: [{ id: 'j1', number: 7, method: 'dpo', title: '', status: 'running' }],
  runs: [],
  models: [{ id: 'm1', name: 'helpful-dpo', kind: 'policy', is_current: true, archived_at: null }],
  links: [],
}
const gone: PromptReach = {
  ...reach,
  messages: [{ role: 'user', content: '[erased]' }],
  erasure: {
    reason: 'She asked.',
    by: 'Olga',
    created_at: '2026-05-02T12:00:00Z',
    finished_at: '2026-05-02T12:00:05Z',
    snapshots: [{ snapshot, lines: 2 }],
  },
}

function open(found: PromptReach, role = 'owner') {
  let now = found
  const api = fakeApi({
    'GET session': () => ({
      body: { user: { id: 'u', projects: [{ slug: 'p', name: 'P', role, can_research: true }] } },
    }),
    'GET projects/p/prompts/x/lineage': () => ({ body: now }),
    'POST projects/p/prompts/x/erase': () => {
      now = gone
      return { body: gone }
    },
  })
  openPage(
    '/r/p/data/x/erase',
    <Route path="/r/:slug/data/:id/erase">
      <ErasePrompt />
    </Route>,
  )
  return api
}

test('what goes and what stays is named, and the prompt is erased once reason and name are typed', async () => {
  const api = open(reach)
  expect(await screen.findByText('Who is Ingeborg?')).toBeTruthy()
  expect(screen.getByRole('link', { name: /helpful-dpo/ }).getAttribute('href')).toBe('/r/p/policies/m1')
  expect(screen.getByRole('link', { name: /Snapshot v3/ })).toBeTruthy()
  expect(screen.getByText(/1 model was trained on it/)).toBeTruthy()
  expect(screen.getByText(/1 job on a touched snapshot has not ended/)).toBeTruthy()
  const button = await screen.findByRole('button', { name: 'Erase for good' })
  expect(button).toHaveProperty('disabled', true)
  await userEvent.type(screen.getByLabelText('Reason'), 'She asked.')
  await userEvent.type(screen.getByLabelText('Type p to confirm'), 'P')
  expect(button).toHaveProperty('disabled', true)
  await userEvent.clear(screen.getByLabelText('Type p to confirm'))
  await userEvent.type(screen.getByLabelText('Type p to confirm'), 'p')
  await userEvent.click(button)
  expect(await screen.findByRole('heading', { name: 'Tombstone' })).toBeTruthy()
  expect(api.calls('POST', 'erase')[0]?.body).toEqual({ reason: 'She asked.', confirm: 'p' })
  expect(screen.queryByText('Who is Ingeborg?')).toBeNull()
  expect(screen.getByText(/2 lines erased/)).toBeTruthy()
  expect(screen.getByText(/gone through/)).toBeTruthy()
  expect(screen.getByRole('link', { name: /helpful-dpo/ })).toBeTruthy()
  expect(screen.queryByRole('button', { name: 'Erase for good' })).toBeNull()
})

test('a manager reads what would go, and is told who can do it', async () => {
  open({ ...reach, later: 2 }, 'manager')
  expect(await screen.findByText('Only an owner of the project can erase a prompt.')).toBeTruthy()
  expect(screen.getByText('Later prompts of its chats, which repeat it')).toBeTruthy()
  expect(screen.queryByRole('button', { name: 'Erase for good' })).toBeNull()
})
