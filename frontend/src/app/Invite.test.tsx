import { QueryClientProvider } from '@tanstack/react-query'
import { cleanup, render, screen, waitFor } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import { newQueryClient } from 'src/api/queries'
import Invite from 'src/app/Invite'
import { fakeApi } from 'src/testing/fakeApi'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
  window.location.hash = ''
})

test('the secret of an invitation travels in bodies only', async () => {
  window.location.hash = '#very-secret'
  const api = fakeApi({
    'GET session': () => ({ body: { user: null } }),
    'POST invitations/look': () => ({
      body: {
        project: { slug: 'p', name: 'Helpfulness' },
        role: 'annotator',
        email: '',
        invited_by: 'Olga',
        expires_at: '2030-01-01T00:00:00Z',
        state: 'open',
      },
    }),
    'POST invitations/accept': () => ({ body: { project: 'p', role: 'annotator' } }),
  })
  const keys = userEvent.setup()
  render(
    <QueryClientProvider client={newQueryClient()}>
      <Invite />
    </QueryClientProvider>,
  )
  expect(await screen.findByText(/Olga invites you to “Helpfulness” as annotator/)).toBeDefined()
  await keys.type(screen.getByRole('textbox', { name: 'Email' }), 'new@example.org')
  await keys.type(screen.getByRole('textbox', { name: 'Name' }), 'Nina')
  await keys.type(screen.getByLabelText('New password'), 'a long one')
  await keys.click(screen.getByRole('button', { name: 'Make an account and join' }))
  await waitFor(() =>
    expect(api.calls('POST', 'invitations/accept')[0]?.body).toEqual({
      secret: 'very-secret',
      email: 'new@example.org',
      name: 'Nina',
      password: 'a long one',
    }),
  )
  expect(api.asked.every(({ path, query }) => !`${path}?${query}`.includes('very-secret'))).toBe(true)
})
