import type { PlaygroundQuestion } from 'src/api/schema'
import { asCurl, askBody, draftOf, goneOn, NEW_DRAFT } from 'src/training/playgroundDraft'
import { expect, test } from 'vitest'

const QUESTION: PlaygroundQuestion = {
  id: 'q',
  created_at: '2026-11-20T12:00:00Z',
  created_by: 'olga',
  messages: [
    { role: 'system', content: 'Be kind.' },
    { role: 'user', content: "What's up?" },
  ],
  policies: [{ id: 'p', name: 'base' }],
  completions: 2,
  sampling: { temperature: 0.7, top_p: 0.9, max_new_tokens: 64, seed: 3 },
  reward: null,
  sent_at: null,
  comparisons: null,
}

test('a question asked again is the same request', () => {
  expect(askBody(draftOf(QUESTION))).toEqual({
    messages: QUESTION.messages,
    policies: ['p'],
    completions: 2,
    temperature: 0.7,
    top_p: 0.9,
    max_new_tokens: 64,
    seed: 3,
  })
})

test('going on with an answer makes it the assistant’s turn', () => {
  const draft = goneOn(QUESTION, 'Not much.')
  expect(askBody({ ...draft, turns: draft.turns.with(-1, 'Why?') }).messages.map(({ role }) => role)).toEqual([
    'system',
    'user',
    'assistant',
    'user',
  ])
})

test('what is left empty is left out', () => {
  const body = askBody({ ...NEW_DRAFT, turns: ['Hello'], temperature: ' ', seed: '', topP: '0,5' })
  expect(body).toEqual({
    messages: [{ role: 'user', content: 'Hello' }],
    policies: [],
    completions: 1,
    top_p: 0.5,
    max_new_tokens: 256,
  })
})

test('a shell reads the text of the request as it is', () => {
  expect(asCurl('http://here/api', draftOf(QUESTION))).toContain("What'\\''s up?")
})
