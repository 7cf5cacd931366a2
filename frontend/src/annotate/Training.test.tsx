import { QueryClientProvider } from '@tanstack/react-query'
import { act, cleanup, render, screen, waitFor } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import { Practice } from 'src/annotate/Training'
import { newQueryClient } from 'src/api/queries'
import { fakeApi } from 'src/testing/fakeApi'
import { task } from 'src/testing/tasks'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Route, Router } from 'wouter'
import { memoryLocation } from 'wouter/memory-location'

beforeEach(() => {
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
  vi.unstubAllGlobals()
})

function practise(more: Parameters<typeof fakeApi>[0] = {}) {
  let left = [task(1), task(2)]
  const api = fakeApi({
    'POST annotate/projects/p/practice': () => ({ body: { task: left[0] ?? null } }),
    'POST annotate/assignments/:id/vote': () => {
      left = left.slice(1)
      return { status: 201, body: { vote: 'v', key: 'k', counted: true, votes: 0, remaining: 0 } }
    },
    'GET annotate/projects/p/practice/:id/explanation': () => ({
      body: { is_right: false, yours: { choice: 'right' }, right: { choice: 'left' }, text: 'B invents a flag.' },
    }),
    ...more,
  })
  const { hook } = memoryLocation({ path: '/p/p/practice' })
  const keys = userEvent.setup()
  render(
    <QueryClientProvider client={newQueryClient()}>
      <Router hook={hook}>
        <Route path="/p/:slug/practice">
          <Practice />
        </Route>
      </Router>
    </QueryClientProvider>,
  )
  return { api, keys }
}

const guard = () => act(() => new Promise((resolve) => setTimeout(resolve, 270)))
const shown = (n: number) => screen.findByText(`Left text ${n}`, undefined, { timeout: 3000 })

test('practice explains after the answer, never before, and Enter goes on', async () => {
  const { api, keys } = practise()
  await shown(1)
  expect(api.calls('GET', 'explanation')).toHaveLength(0)
  await guard()
  await keys.keyboard('b')
  expect(await screen.findByText('Another answer was expected.')).toBeDefined()
  expect(screen.getByText('Expected: A is better.')).toBeDefined()
  await keys.keyboard('a')
  expect(api.calls('POST', '/vote')).toHaveLength(1)
  await keys.keyboard('{Enter}')
  await shown(2)
  await guard()
  await keys.keyboard('a')
  await keys.click(await screen.findByRole('button', { name: 'Continue' }))
  await waitFor(() => expect(screen.getByText('Practice is done')).toBeDefined())
})

test('who disagrees with the expected answer says why, once, and typing is no vote', async () => {
  const { api, keys } = practise({ 'POST annotate/projects/p/votes/:id/objection': () => ({ status: 204 }) })
  await shown(1)
  await guard()
  await keys.keyboard('b')
  await keys.click(await screen.findByRole('button', { name: 'I disagree: tell us' }))
  const field = screen.getByLabelText('Why you disagree')
  expect(document.activeElement).toBe(field)
  expect(screen.getByRole('button', { name: 'Send' })).toHaveProperty('disabled', true)
  await keys.keyboard('a flag is there')
  await keys.click(screen.getByRole('button', { name: 'Send' }))
  expect(await screen.findByText('You disagreed: a flag is there')).toBeDefined()
  expect(api.calls('POST', 'votes/v/objection').map(({ body }) => body)).toEqual([{ text: 'a flag is there' }])
  expect(api.calls('POST', 'assignments')).toHaveLength(1)
  expect(screen.queryByRole('button', { name: 'I disagree: tell us' })).toBeNull()
})

test('what was not sent is still there to be sent again', async () => {
  const refused = { status: 409, body: { code: 'already_objected', message: 'You have objected.', details: {} } }
  const { keys } = practise({ 'POST annotate/projects/p/votes/:id/objection': () => refused })
  await shown(1)
  await guard()
  await keys.keyboard('b')
  await keys.click(await screen.findByRole('button', { name: 'I disagree: tell us' }))
  await keys.keyboard('no')
  await keys.click(screen.getByRole('button', { name: 'Send' }))
  expect((await screen.findByRole('alert')).textContent).toContain('It was not sent.')
  expect(screen.getByLabelText('Why you disagree')).toHaveProperty('value', 'no')
})
