import { QueryClientProvider } from '@tanstack/react-query'
import { act, cleanup, render, screen, waitFor, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import axe from 'axe-core'
import TaskPage from 'src/annotate/Task'
import { newQueryClient } from 'src/api/queries'
import type { Task } from 'src/api/schema'
import { type Asked, fakeApi } from 'src/testing/fakeApi'
import { HeaderSlotContext } from 'src/ui/widgets/HeaderSlot'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Route, Router } from 'wouter'
import { memoryLocation } from 'wouter/memory-location'

const task = (n: number, more: Partial<Task> = {}): Task => ({
  assignment: `assignment-${n}`,
  prompt: [{ role: 'user', content: `Question number ${n}` }],
  left: `Left text ${n}`,
  right: `Right text ${n}`,
  question: 'Which response is better?',
  allow_tie: true,
  lease_expires_at: '2030-01-01T00:00:00Z',
  choice: null,
  ...more,
})

type Vote = { assignment: string; choice: unknown; key: string | null }

let user = 0
let votes: Vote[]
let tasks: Task[]
let api: ReturnType<typeof fakeApi>
let voteAnswer: ((asked: Asked) => { status: number; body: unknown } | 'offline') | null
let done: string

function start() {
  user += 1
  const id = `user-${user}`
  api = fakeApi({
    'GET session': () => ({
      body: {
        user: {
          id,
          email: 'ann@example.org',
          name: 'ann',
          is_operator: false,
          projects: [
            {
              slug: 'p',
              name: 'Helpfulness',
              role: 'annotator',
              can_annotate: true,
              can_research: false,
              can_manage: false,
            },
          ],
        },
      },
    }),
    'GET annotate/projects': () => ({ body: { items: [], next: null } }),
    'GET annotate/projects/p/guideline': () => ({ body: { number: 2, text: 'Prefer the honest one.' } }),
    'POST annotate/projects/p/queue': ({ body }) => {
      const items = tasks.slice(0, (body as { n: number }).n)
      return {
        body: {
          items,
          done: items.length === 0 ? done : null,
          votes: votes.length,
          remaining: tasks.length,
          lease_minutes: 15,
        },
      }
    },
    'POST annotate/projects/p/release': () => ({ body: { released: 0 } }),
    'POST annotate/assignments/:id/vote': (asked) => {
      const special = voteAnswer?.(asked)
      if (special) return special
      const assignment = asked.path.split('/')[2] ?? ''
      const key = asked.headers.get('Idempotency-Key')
      votes.push({ assignment, choice: (asked.body as { choice: string }).choice, key })
      tasks = tasks.filter((one) => one.assignment !== assignment)
      return {
        status: 201,
        body: { vote: `vote-of-${assignment}`, key, counted: true, votes: votes.length, remaining: tasks.length },
      }
    },
    'POST annotate/votes/:id/retract': ({ path }) => {
      const assignment = (path.split('/')[2] ?? '').replace('vote-of-', '')
      const back = task(Number(assignment.split('-')[1]), { assignment: `${assignment}-again`, choice: 'left' })
      tasks = [back, ...tasks]
      return { body: { task: back } }
    },
    'POST annotate/assignments/:id/skip': ({ path }) => {
      tasks = tasks.filter((one) => one.assignment !== path.split('/')[2])
      return { status: 204 }
    },
    'POST annotate/assignments/:id/flag': ({ path }) => {
      tasks = tasks.filter((one) => one.assignment !== path.split('/')[2])
      return { status: 204 }
    },
  })
  const slot = document.createElement('div')
  document.body.append(slot)
  const { hook } = memoryLocation({ path: '/p/p/task' })
  const view = render(
    <QueryClientProvider client={newQueryClient()}>
      <Router hook={hook}>
        <HeaderSlotContext value={slot}>
          <Route path="/p/:slug/task">
            <TaskPage />
          </Route>
        </HeaderSlotContext>
      </Router>
    </QueryClientProvider>,
  )
  return { ...view, keys: userEvent.setup() }
}

const heading = (n: number) => screen.findByRole('heading', { name: `Comparison ${n}` }, { timeout: 3000 })
/** Keys rest for the first quarter of a second of a task. */
const guard = () => act(() => new Promise((resolve) => setTimeout(resolve, 270)))

beforeEach(() => {
  votes = []
  tasks = [1, 2, 3, 4, 5, 6].map((n) => task(n))
  voteAnswer = null
  done = 'all_done'
  vi.stubGlobal(
    'ResizeObserver',
    class {
      observe() {}
      disconnect() {}
      unobserve() {}
    },
  )
})
afterEach(() => {
  cleanup()
  document.body.replaceChildren()
  vi.unstubAllGlobals()
})

test('one key is one vote, and the next comparison is there', async () => {
  const { keys } = start()
  await heading(1)
  expect(screen.getByRole('region', { name: 'Response A' }).textContent).toContain('Left text 1')
  await guard()
  await keys.keyboard('b')
  await heading(2)
  await waitFor(() => expect(votes).toHaveLength(1))
  expect(votes[0]).toMatchObject({ assignment: 'assignment-1', choice: 'right' })
  expect(votes[0]?.key).toMatch(/^[0-9a-f-]{36}$/)
  expect(screen.getByText('Saved. B is better. Comparison 1 of 6.')).toBeDefined()
  expect(screen.getByText('1 of 6')).toBeDefined()
})

test('a second press within a quarter of a second is not a second vote, and a click counts like a key', async () => {
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.click(screen.getByRole('button', { name: 'About equal' }))
  await keys.keyboard('1')
  await heading(2)
  await waitFor(() => expect(votes.map(({ choice }) => choice)).toEqual(['tie']))
  await guard()
  await keys.keyboard('1')
  await waitFor(() => expect(votes).toHaveLength(2))
})

test('undo retracts a sent vote, marks the old answer, and the new vote has a new key', async () => {
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('a')
  await waitFor(() => expect(votes).toHaveLength(1))
  await heading(2)
  await keys.click(screen.getByRole('button', { name: 'Undo' }))
  await waitFor(() => expect(screen.getByRole('region', { name: 'Response A' }).textContent).toContain('Left text 1'))
  expect(screen.getByText('Your earlier choice')).toBeDefined()
  await guard()
  await keys.keyboard('b')
  await waitFor(() => expect(votes).toHaveLength(2))
  expect(votes[1]).toMatchObject({ assignment: 'assignment-1-again', choice: 'right' })
  expect(votes[1]?.key).not.toBe(votes[0]?.key)
})

test('a server that is down keeps the votes, and the person goes on', async () => {
  voteAnswer = () => ({ status: 503, body: { code: 'unavailable', message: '' } })
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('a')
  await heading(2)
  expect(await screen.findByText('Saving 1')).toBeDefined()
  voteAnswer = null
  await waitFor(() => expect(votes).toHaveLength(1), { timeout: 8000 })
  expect(await screen.findByText('Saved')).toBeDefined()
}, 12_000)

test('a vote that the server refuses is shown with its reason', async () => {
  voteAnswer = () => ({ status: 409, body: { code: 'already_voted', message: 'You have voted on this comparison.' } })
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('a')
  await keys.click(await screen.findByRole('button', { name: 'Not accepted (1)' }))
  const dialog = within(await screen.findByRole('dialog', { name: 'Not accepted' }))
  expect(dialog.getByText('You have voted on this comparison.')).toBeDefined()
})

test('skip asks one reason by number; votes rest while it asks', async () => {
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('s')
  const dialog = await screen.findByRole('dialog', { name: 'Why skip this one?' })
  await keys.keyboard('b')
  expect(votes).toHaveLength(0)
  expect(within(dialog).getAllByRole('button').length).toBeGreaterThanOrEqual(5)
  await keys.keyboard('3')
  await waitFor(() => expect(api.calls('POST', '/skip')[0]?.body).toEqual({ reason: 'too_long' }))
  await waitFor(() => expect(screen.getByRole('region', { name: 'Response A' }).textContent).toContain('Left text 2'))
})

test('typing a note is typing: no key of it votes', async () => {
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('f')
  const dialog = within(await screen.findByRole('dialog', { name: 'Flag this comparison' }))
  await keys.click(dialog.getByRole('radio', { name: 'Harmful' }))
  await keys.type(dialog.getByRole('textbox', { name: 'Note (optional)' }), 'a bad 1')
  await keys.click(dialog.getByRole('button', { name: 'Send the flag' }))
  await waitFor(() => expect(api.calls('POST', '/flag')[0]?.body).toEqual({ kind: 'harmful', note: 'a bad 1' }))
  expect(votes).toHaveLength(0)
})

test.each([
  ['all_done', "That's everything for now"],
  ['paused', 'Paused by the researcher'],
  ['held_by_others', 'Others hold the last few'],
  ['nothing_yet', 'Nothing to compare yet'],
])('with nothing to do because of %s it says so', async (reason, title) => {
  tasks = []
  done = reason
  start()
  expect(await screen.findByText(title)).toBeDefined()
})

test('a comparison without ties has no key for one', async () => {
  tasks = [task(1, { allow_tie: false })]
  const { keys } = start()
  await heading(1)
  await guard()
  expect(screen.queryByRole('button', { name: 'About equal' })).toBeNull()
  await keys.keyboard('t')
  expect(votes).toHaveLength(0)
})

test('the guideline opens beside the task, and source shows both texts raw', async () => {
  tasks = [task(1, { left: '**bold**' })]
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('g')
  expect(await screen.findByText('Prefer the honest one.')).toBeDefined()
  await waitFor(() => expect(screen.getByText('bold').tagName).toBe('STRONG'))
  await keys.keyboard('v')
  expect(screen.getByText('**bold**')).toBeDefined()
})

test('axe finds nothing in the page', async () => {
  const { container } = start()
  await heading(1)
  // Colours need a real browser; the rest does not.
  const { violations } = await axe.run(container, {
    rules: { 'color-contrast': { enabled: false }, region: { enabled: false } },
  })
  expect(violations.map(({ id, nodes }) => `${id}: ${nodes[0]?.html}`)).toEqual([])
})
