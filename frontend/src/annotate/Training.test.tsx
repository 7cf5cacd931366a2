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

test('practice explains after the answer, never before, and Enter goes on', async () => {
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
  const guard = () => act(() => new Promise((resolve) => setTimeout(resolve, 270)))
  await screen.findByText('Left text 1', undefined, { timeout: 3000 })
  expect(api.calls('GET', 'explanation')).toHaveLength(0)
  await guard()
  await keys.keyboard('b')
  expect(await screen.findByText('Another answer was expected.')).toBeDefined()
  expect(screen.getByText('Expected: A is better.')).toBeDefined()
  await keys.keyboard('a')
  expect(api.calls('POST', '/vote')).toHaveLength(1)
  await keys.keyboard('{Enter}')
  await screen.findByText('Left text 2')
  await guard()
  await keys.keyboard('a')
  await keys.click(await screen.findByRole('button', { name: 'Continue' }))
  await waitFor(() => expect(screen.getByText('Practice is done')).toBeDefined())
})
