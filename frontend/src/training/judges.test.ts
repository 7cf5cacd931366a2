import { evaluationBody, judgeName, judgesBody, NEW_EVALUATION } from 'src/training/judges'
import { expect, test } from 'vitest'

const served = (part: object) => ({ key: 1, url: '', model: '', prompt: '', ...part })

test('judges go in the order of the form, each with what belongs to its kind alone', () => {
  const draft = {
    ...NEW_EVALUATION,
    overlap: '3',
    rewards: ['r-1'],
    served: [served({ url: ' https://host/v1 ', model: 'big' }), served({})],
  }
  expect(judgesBody(draft)).toEqual([
    { kind: 'people', overlap: 3 },
    { kind: 'reward', model: 'r-1' },
    { kind: 'judge', url: 'https://host/v1', model: 'big' },
    { kind: 'judge' },
  ])
  expect(judgesBody({ ...draft, people: false, rewards: [], served: [] })).toEqual([])
})

test('what was left empty is left to the server', () => {
  const body = evaluationBody({ ...NEW_EVALUATION, first: 'a', second: 'b', prompts: '', name: '  ' })
  expect(body).toEqual({
    first: 'a',
    second: 'b',
    sampling: { temperature: 1, top_p: 1, max_new_tokens: 128, seed: 1 },
    judges: [{ kind: 'people' }],
  })
})

test('a judge is called by its model', () => {
  const reward = { id: 'r', name: 'RM 2', kind: 'reward' as const }
  expect(judgeName({ kind: 'reward', reward_model: reward, judge: null })).toBe('RM 2')
  expect(judgeName({ kind: 'judge', reward_model: null, judge: { url: 'u', model: 'big', prompt: null } })).toBe('big')
  expect(judgeName({ kind: 'people', reward_model: null, judge: null })).toBe('People')
})
