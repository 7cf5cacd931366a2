import { QueryClientProvider } from '@tanstack/react-query'
import { act, cleanup, render, screen, waitFor, within } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import axe from 'axe-core'
import TaskPage from 'src/annotate/Task'
import { newQueryClient } from 'src/api/queries'
import type { Task } from 'src/api/schema'
import { type Asked, fakeApi } from 'src/testing/fakeApi'
import { criterion, form, task } from 'src/testing/tasks'
import { HeaderSlotContext } from 'src/ui/widgets/HeaderSlot'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Route, Router } from 'wouter'
import { memoryLocation } from 'wouter/memory-location'

type Vote = { assignment: string; choice: unknown; key: string | null; body: Record<string, unknown> }

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
      const { active_ms, ...body } = asked.body as Record<string, unknown>
      expect(active_ms).toBeGreaterThan(0)
      votes.push({ assignment, choice: body.choice, key, body })
      tasks = tasks.filter((one) => one.assignment !== assignment)
      return {
        status: 201,
        body: { vote: `vote-of-${assignment}`, key, counted: true, votes: votes.length, remaining: tasks.length },
      }
    },
    'POST annotate/votes/:id/retract': ({ path }) => {
      const assignment = (path.split('/')[2] ?? '').replace('vote-of-', '')
      const back = task(Number(assignment.split('-')[1]), {
        assignment: `${assignment}-again`,
        answer: { choice: 'left', rationale: 'It is right.' },
      })
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
  localStorage.clear()
  cleanup()
  document.body.replaceChildren()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
})

/** Lets a test say when the end of a response is on the screen. */
function watchEnds() {
  vi.spyOn(HTMLElement.prototype, 'clientHeight', 'get').mockReturnValue(300)
  const watched = new Map<Element, (seen: { isIntersecting: boolean }[]) => void>()
  vi.stubGlobal(
    'IntersectionObserver',
    class {
      constructor(readonly told: (seen: { isIntersecting: boolean }[]) => void) {}
      observe(end: Element) {
        watched.set(end, this.told)
      }
      disconnect() {}
    },
  )
  return (letter: string) =>
    waitFor(() => {
      const found = [...watched].filter(([end]) => end.isConnected && end.closest(`[data-letter="${letter}"]`))
      expect(found).not.toEqual([])
      for (const [, told] of found) told([{ isIntersecting: true }])
    })
}

test('a key or a click before both responses were read to the end says which one has more', async () => {
  const seeEnd = watchEnds()
  tasks = [task(1, { read_to_end: true }), task(2, { read_to_end: true })]
  const { keys } = start()
  await heading(1)
  await guard()
  await seeEnd('A')
  await keys.keyboard('a')
  expect((await screen.findByText(/first: B has more below/)).closest('[role="status"]')).not.toBeNull()
  await keys.click(screen.getByRole('button', { name: /B is better/ }))
  expect(votes).toEqual([])
  await seeEnd('B')
  await keys.keyboard('b')
  await heading(2)
  await waitFor(() => expect(votes).toHaveLength(1))
})

test('what was read is not to be read again after an undo, and the next comparison is', async () => {
  const seeEnd = watchEnds()
  tasks = [task(1, { read_to_end: true }), task(2, { read_to_end: true })]
  const { keys } = start()
  await heading(1)
  await guard()
  await seeEnd('A')
  await seeEnd('B')
  await keys.keyboard('a')
  await heading(2)
  await guard()
  await keys.keyboard('a')
  expect(await screen.findByText(/A and B have more below/)).toBeDefined()
  await keys.keyboard('u')
  await screen.findByText('Taken back. Vote again.')
  await guard()
  await keys.keyboard('b')
  await waitFor(() => expect(votes.map(({ choice }) => choice)).toEqual(['left', 'right']))
})

test('a key before the least time of reading says how long is left', async () => {
  tasks = [task(1, { min_reading_seconds: 600 })]
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('a')
  expect(await screen.findByText(/asks for 600 s a comparison, 600 s to go/)).toBeDefined()
  expect(votes).toEqual([])
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
  expect(screen.getByRole('textbox', { name: /Why/ })).toHaveProperty('value', 'It is right.')
  await guard()
  await keys.keyboard('b')
  await waitFor(() => expect(votes).toHaveLength(2))
  expect(votes[1]).toMatchObject({ assignment: 'assignment-1-again', choice: 'right' })
  expect(votes[1]?.key).not.toBe(votes[0]?.key)
})

test('what was just saved is taken back beside the message that says so, and nothing older is', async () => {
  const { keys } = start()
  const beside = () => screen.queryByRole('button', { name: 'Undo the last vote' })
  await heading(1)
  await guard()
  expect(beside()).toBeNull()
  await keys.keyboard('b')
  await heading(2)
  await waitFor(() => expect(votes).toHaveLength(1))
  expect((await screen.findByText(/^Saved\. B is better/)).parentElement?.contains(beside())).toBe(true)
  await guard()
  await keys.keyboard('s1')
  await screen.findByText('Skipped.')
  expect(beside()).toBeNull()
  await guard()
  await keys.keyboard('a')
  await screen.findByText(/^Saved\. A is better/)
  await keys.click(beside() as HTMLElement)
  await screen.findByText('Taken back. Vote again.')
  expect(beside()).toBeNull()
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
  tasks = [task(1, { form: form({ allow_tie: false }) })]
  const { keys } = start()
  await heading(1)
  await guard()
  expect(screen.queryByRole('button', { name: 'About equal' })).toBeNull()
  await keys.keyboard('t')
  expect(votes).toHaveLength(0)
})

test('the guideline opens beside the task, and source shows both texts raw', async () => {
  tasks = [task(1, { completions: ['**bold**', 'plain'] })]
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('g')
  expect(await screen.findByText('Prefer the honest one.')).toBeDefined()
  await waitFor(() => expect(screen.getByText('bold').tagName).toBe('STRONG'))
  await keys.keyboard('v')
  expect(screen.getByText('**bold**')).toBeDefined()
})

const three = { completions: ['First text', 'Second text', 'Third text'] }
const RATING = form({ kind: 'rating', criteria: [criterion('truth', 'Truth'), criterion('style', 'Style')] })

test('differences are marked in both texts, for this comparison only', async () => {
  tasks = [
    task(1, { completions: ['The first text', 'The other text'] }),
    task(2),
    task(3, { ...three, form: form({ kind: 'ranking', size: 3 }) }),
  ]
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('d')
  await screen.findByText('Words that only one response has are marked.', undefined, { timeout: 5000 })
  expect(screen.getAllByRole('insertion').map((node) => node.textContent)).toEqual(['first', 'other'])
  await keys.keyboard('a')
  await heading(2)
  expect(screen.queryByRole('insertion')).toBeNull()
  await guard()
  await keys.keyboard('a')
  await heading(3)
  expect(screen.queryByRole('button', { name: 'Differences' })).toBeNull()
})

test('a scale is one key from A to B, and X is both bad', async () => {
  const scale = form({ kind: 'scale', points: 5, allow_both_bad: true })
  tasks = [1, 2, 3].map((n) => task(n, { form: scale }))
  const { keys } = start()
  await heading(1)
  await guard()
  expect(screen.getByRole('button', { name: 'A is much better' })).toBeDefined()
  await keys.keyboard('5')
  await heading(2)
  expect(screen.getByText('Saved. B is much better. Comparison 1 of 3.')).toBeDefined()
  await guard()
  await keys.keyboard('x')
  await waitFor(() => expect(votes.map(({ body }) => body)).toEqual([{ scale: 5 }, { choice: 'both_bad' }]))
})

test('what is required is asked for in its order, and Enter submits', async () => {
  const asked = form({
    criteria: [criterion('truth', 'Truth'), criterion('style', 'Style')],
    reasons: [{ key: 'facts', label: 'Facts' }],
    reasons_required: true,
    rationale: 'required',
  })
  tasks = [task(1, { form: asked })]
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('{Enter}')
  expect(await screen.findByText('Choose an answer first.')).toBeDefined()
  await keys.keyboard('a')
  await waitFor(() => expect(screen.getByRole('group', { name: 'Truth' }).contains(document.activeElement)).toBe(true))
  await keys.keyboard('1')
  await waitFor(() => expect(screen.getByRole('group', { name: 'Style' }).contains(document.activeElement)).toBe(true))
  await keys.keyboard('2')
  await waitFor(() => expect(document.activeElement?.getAttribute('type')).toBe('checkbox'))
  await keys.click(screen.getByRole('checkbox', { name: 'Facts' }))
  await keys.keyboard('{Enter}')
  await waitFor(() => expect(document.activeElement?.tagName).toBe('TEXTAREA'))
  await keys.keyboard('It is 1 of a kind')
  expect(votes).toHaveLength(0)
  await keys.keyboard('{Control>}{Enter}{/Control}')
  await waitFor(() => expect(votes).toHaveLength(1))
  expect(votes[0]?.body).toEqual({
    choice: 'left',
    criteria: { truth: 'left', style: 'tie' },
    reasons: ['facts'],
    rationale: 'It is 1 of a kind',
  })
})

test('letters rank, equal ones are joined, and what is placed can be taken back', async () => {
  tasks = [task(1, { ...three, form: form({ kind: 'ranking', size: 3 }) })]
  const { keys } = start()
  await heading(1)
  await guard()
  await keys.keyboard('c')
  await keys.keyboard('b')
  await keys.keyboard('{Backspace}')
  await keys.keyboard('a')
  await keys.keyboard('=')
  await keys.keyboard('b')
  expect(screen.getByText('3 of 3 placed')).toBeDefined()
  expect(screen.getByRole('combobox', { name: 'Place of response C' })).toHaveProperty('value', '1')
  await keys.keyboard('{Enter}')
  await waitFor(() => expect(votes[0]?.body).toEqual({ ranking: [['C'], ['A', 'B']] }))
})

test('buttons and the list of places rank too', async () => {
  tasks = [task(1, { ...three, form: form({ kind: 'ranking', size: 3, allow_tie: false }) })]
  const { keys } = start()
  await heading(1)
  await guard()
  for (const letter of ['A', 'B', 'C']) await keys.click(screen.getByRole('button', { name: `Place ${letter} next` }))
  await keys.click(screen.getByRole('button', { name: 'Move C up' }))
  await keys.selectOptions(screen.getByRole('combobox', { name: 'Place of response B' }), 'place 1')
  expect(screen.queryByRole('button', { name: 'Equal to the previous' })).toBeNull()
  await keys.click(screen.getByRole('button', { name: 'Submit' }))
  await waitFor(() => expect(votes[0]?.body).toEqual({ ranking: [['B'], ['A'], ['C']] }))
})

test('digits rate row after row, and N says that it does not apply', async () => {
  tasks = [task(1, { form: RATING })]
  const { keys } = start()
  await heading(1)
  await guard()
  for (const key of ['5', 'n', '1']) {
    await keys.keyboard(key)
    await act(() => new Promise((resolve) => setTimeout(resolve, 30)))
  }
  await keys.keyboard('{Enter}')
  expect(await screen.findByText(/Rate every response first/)).toBeDefined()
  await keys.keyboard('4')
  await waitFor(() => expect(document.activeElement?.textContent).toContain('Submit'))
  await keys.keyboard('{Enter}')
  await waitFor(() =>
    expect(votes[0]?.body).toEqual({ ratings: { A: { truth: 5, style: null }, B: { truth: 1, style: 4 } } }),
  )
})

test('a single response is rated as a whole', async () => {
  tasks = [task(1, { completions: ['Only text'], form: form({ kind: 'rating', size: 1, points: 7 }) })]
  const { keys } = start()
  await heading(1)
  await guard()
  expect(screen.queryByRole('radio', { name: 'Not applicable' })).toBeNull()
  await keys.click(screen.getByRole('radio', { name: '6 of 7' }))
  await keys.keyboard('{Enter}')
  await waitFor(() => expect(votes[0]?.body).toEqual({ ratings: { A: { overall: 6 } } }))
})

test('each response is read alone first; until then vote keys say so and do nothing', async () => {
  tasks = [task(1, { form: form({ read_first: true }) })]
  const { keys } = start()
  await heading(1)
  await guard()
  expect(screen.queryByRole('region', { name: 'Response B' })).toBeNull()
  // Differences would show what is not read yet.
  expect(screen.getByRole('button', { name: 'Differences' })).toHaveProperty('disabled', true)
  await keys.keyboard('a')
  expect(await screen.findByText('Read and rate each response first.')).toBeDefined()
  await keys.keyboard('6')
  await waitFor(() => expect(document.activeElement?.textContent).toContain('Continue'))
  await keys.keyboard('{Enter}')
  expect(await screen.findByRole('region', { name: 'Response B' })).toBeDefined()
  expect(screen.queryByRole('region', { name: 'Response A' })).toBeNull()
  await guard()
  await keys.keyboard('2')
  await keys.click(screen.getByRole('button', { name: 'Continue' }))
  expect(await screen.findByText('Your rating: 6 of 7')).toBeDefined()
  await guard()
  await keys.keyboard('a')
  await waitFor(() => expect(votes[0]?.body).toEqual({ choice: 'left', first_ratings: { A: 6, B: 2 } }))
})

test('an answer that is begun survives a reload', async () => {
  tasks = [task(1, { form: form({ rationale: 'required' }) })]
  const { keys, unmount } = start()
  await heading(1)
  await guard()
  await keys.type(screen.getByRole('textbox', { name: /Why/ }), 'Half a thought')
  unmount()
  start()
  await heading(1)
  expect(screen.getByRole('textbox', { name: /Why/ })).toHaveProperty('value', 'Half a thought')
})

test.each([
  ['scale', task(1, { form: form({ kind: 'scale', points: 7, criteria: [criterion('truth', 'Truth')] }) })],
  ['ranking', task(1, { ...three, form: form({ kind: 'ranking', size: 3 }) })],
  ['rating', task(1, { form: RATING })],
  ['reading alone', task(1, { form: form({ read_first: true, reasons: [{ key: 'x', label: 'X' }] }) })],
])('axe finds nothing in a %s', async (_, only) => {
  tasks = [only]
  const { container } = start()
  await heading(1)
  const { violations } = await axe.run(container, {
    rules: { 'color-contrast': { enabled: false }, region: { enabled: false } },
  })
  expect(violations.map(({ id, nodes }) => `${id}: ${nodes[0]?.html}`)).toEqual([])
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
