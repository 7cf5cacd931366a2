import { cleanup, screen } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import type { PlaygroundAnswer, PlaygroundDetail } from 'src/api/schema'
import { fakeApi } from 'src/testing/fakeApi'
import { openPage } from 'src/testing/page'
import { PlaygroundAnswers } from 'src/training/PlaygroundAnswers'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

const answer = (name: string): PlaygroundAnswer => ({
  id: name,
  policy: { id: name, name },
  index: 0,
  state: 'done',
  text: `Text of ${name}`,
  tokens: 3,
  logprob: -4,
  score: null,
  finish: 'end',
  error: '',
})

function open(names: string[], text?: string) {
  const question: PlaygroundDetail = {
    id: 'q',
    created_at: '2026-05-01T12:00:00Z',
    created_by: 'Olga',
    messages: [{ role: 'user', content: 'Why?' }],
    policies: names.map((name) => answer(name).policy),
    completions: 1,
    sampling: { temperature: 1, top_p: 1, max_new_tokens: 24, seed: 0 },
    reward: null,
    sent_at: null,
    comparisons: null,
    stage: 'over',
    ahead: 0,
    workers: 1,
    job: 'j',
    answers: names.map((name) => ({ ...answer(name), ...(text === undefined ? {} : { text }) })),
  }
  const api = fakeApi({ 'POST projects/p/playground/q/send': () => ({ body: { ...question, comparisons: 1 } }) })
  openPage('/r/p/playground', <PlaygroundAnswers slug="p" question={question} canManage onGoOn={() => undefined} />)
  return api
}

test('two completions go to annotators', async () => {
  const api = open(['one', 'two'])
  await userEvent.click(screen.getByRole('button', { name: 'Send to annotators' }))
  expect(api.calls('POST', '/send')).toHaveLength(1)
})

test('one alone has nothing to be compared with, and the page says what to do', () => {
  open(['one'])
  expect(screen.queryByRole('button', { name: 'Send to annotators' })).toBeNull()
  expect(screen.getByText(/ask a second policy/)).toBeDefined()
})

test('nor have two that are the same', () => {
  open(['one', 'two'], 'The same.')
  expect(screen.queryByRole('button', { name: 'Send to annotators' })).toBeNull()
  expect(screen.getByText(/ask with another seed/)).toBeDefined()
})
