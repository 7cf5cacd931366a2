import { QueryClientProvider } from '@tanstack/react-query'
import { cleanup, render, screen, waitFor } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import { newQueryClient } from 'src/api/queries'
import type { DisputeDetail } from 'src/api/schema'
import Adjudicate from 'src/review/Adjudicate'
import { fakeApi } from 'src/testing/fakeApi'
import { form } from 'src/testing/tasks'
import { afterEach, expect, test, vi } from 'vitest'
import { Route, Router } from 'wouter'
import { memoryLocation } from 'wouter/memory-location'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

test('votes are asked for only once the own answer is stored, and the ruling speaks stored order', async () => {
  let mine: DisputeDetail['my_answer'] = null
  const api = fakeApi({
    'GET projects/p/adjudication': () => ({
      body: {
        items: [
          {
            id: 'one',
            prompt: [{ role: 'user', content: 'Why?' }],
            category: '',
            language: '',
            why: 'votes',
            votes: 2,
            disagreement: 0.5,
            answered: mine !== null,
            frozen: false,
          },
        ],
        next: null,
      },
    }),
    'GET projects/p/adjudication/one': () => ({
      body: {
        id: 'one',
        state: 'disputed',
        question: 'Which is better?',
        form: form({ kind: 'scale', points: 5, reasons: [{ key: 'true', label: 'Nothing false in it' }] }),
        prompt: [{ role: 'user', content: 'Why?' }],
        completions: [
          { letter: 'a', text: 'First text', finish: 'end' },
          { letter: 'b', text: 'Second text', finish: 'end' },
        ],
        flags: [],
        requests: [],
        frozen: false,
        my_answer: mine,
        ruling: null,
      } satisfies DisputeDetail,
    }),
    'POST projects/p/adjudication/one/answer': ({ body }) => {
      mine = body as Record<string, unknown>
      return { body: { my_answer: mine, votes: [], history: [] } }
    },
    'GET projects/p/adjudication/one/votes': () => ({
      body: {
        my_answer: mine,
        votes: [
          {
            choice: 'a',
            both_bad: false,
            scale: 1,
            points: 5,
            ranking: null,
            ratings: null,
            criteria: {},
            reasons: ['true'],
            rationale: 'It is right.',
          },
        ],
        history: [],
      },
    }),
    'POST projects/p/adjudication/one/ruling': () => ({
      status: 201,
      body: { id: 'r', kind: 'ruling', state: 'adjudicated', frozen: false, note: '' },
    }),
  })
  const { hook, searchHook } = memoryLocation({ path: '/r/p/adjudicate' })
  const keys = userEvent.setup()
  render(
    <QueryClientProvider client={newQueryClient()}>
      <Router hook={hook} searchHook={searchHook}>
        <Route path="/r/:slug/adjudicate">
          <Adjudicate />
        </Route>
      </Router>
    </QueryClientProvider>,
  )
  await screen.findByText('Your own answer first')
  // The texts are compared and looked at raw by the keys of the annotator's page, or by their buttons.
  const pressed = (name: string) => screen.getByRole('button', { name }).getAttribute('aria-pressed')
  await keys.keyboard('d')
  await screen.findByText('Words that only one response has are marked.', undefined, { timeout: 5000 })
  expect([...document.querySelectorAll('ins')].map((node) => node.textContent)).toEqual(['First', 'Second'])
  await keys.keyboard('v')
  expect([pressed('Source'), pressed('Differences'), document.querySelector('ins')]).toEqual(['true', 'false', null])
  await keys.click(screen.getByRole('button', { name: 'Source' }))
  expect(pressed('Source')).toBe('false')
  await keys.keyboard('b')
  expect(api.calls('GET', '/votes')).toHaveLength(0)
  await keys.click(screen.getByRole('button', { name: 'Store my answer and show the votes' }))
  expect(await screen.findByText('It is right.')).toBeDefined()
  expect(screen.getByText('Nothing false in it')).toBeDefined()
  expect(api.calls('POST', '/answer')[0]?.body).toEqual({ choice: 'b' })
  await keys.type(screen.getByRole('textbox', { name: 'Reason' }), 'The second names its source.')
  await keys.click(screen.getByRole('button', { name: 'Give the ruling' }))
  await waitFor(() =>
    expect(api.calls('POST', '/ruling')[0]?.body).toEqual({ choice: 'b', reason: 'The second names its source.' }),
  )
})
