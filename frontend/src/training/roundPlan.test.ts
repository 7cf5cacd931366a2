import type { Schedule } from 'src/api/schema'
import {
  completionsOf,
  mixBody,
  NEW_PLAN,
  newShare,
  planBody,
  scheduleBody,
  scheduleDraft,
} from 'src/training/roundPlan'
import { expect, test } from 'vitest'

const SCHEDULE: Schedule = {
  is_on: true,
  opponent: 'base',
  prompts: 40,
  sampling: { completions: 2, temperature: 0.7, seed: 9 },
  pairing: {
    strategy: 'information',
    objective: 'strength',
    control_share: 0.2,
    overlap: 3,
    categories: ['code', 'maths'],
    fresh: true,
    skills: [],
    against: ['source-1'],
  },
  since: null,
  problem: '',
  due: null,
  opened: null,
  updated_at: null,
  updated_by: null,
}

test('an empty field is left out, so that the server decides', () => {
  const body = planBody({ ...NEW_PLAN, prompts: ' ', overlap: '', completions: '3', categories: ' code , ,maths' })
  expect(body).toEqual({
    completions: 3,
    temperature: 1,
    top_p: 1,
    max_new_tokens: 128,
    seed: 1,
    categories: ['code', 'maths'],
    strategy: 'cross_source',
  })
})

test('what belongs to the strategy of information goes with it alone', () => {
  const draft = { ...NEW_PLAN, objective: 'strength' as const, control_share: '0.3' }
  expect(planBody({ ...draft, strategy: 'random' })).not.toHaveProperty('objective')
  expect(planBody({ ...draft, strategy: 'information' })).toMatchObject({ objective: 'strength', control_share: 0.3 })
})

test('a schedule that is sent back unchanged stays what it was', () => {
  expect(scheduleBody(scheduleDraft(SCHEDULE), { is_on: true, opponent: 'base' })).toEqual({
    is_on: true,
    opponent: 'base',
    prompts: 40,
    completions: 2,
    temperature: 0.7,
    seed: 9,
    strategy: 'information',
    objective: 'strength',
    control_share: 0.2,
    overlap: 3,
    categories: ['code', 'maths'],
    fresh: true,
    against: ['source-1'],
  })
})

test('policies that are alike are a list; one with a weight makes a mixture', () => {
  const [one, two] = [newShare('one'), newShare('two')]
  expect(mixBody([one, two])).toEqual({ policies: ['one', 'two'] })
  expect(
    mixBody([
      { ...one, weight: '3' },
      { ...two, weight: '1', temperature: '0,5' },
    ]),
  ).toEqual({
    mix: [
      { model: 'one', weight: 3 },
      { model: 'two', weight: 1, temperature: 0.5 },
    ],
  })
})

test('completions of a prompt add up over policies, with those that have a number of their own', () => {
  expect(completionsOf([newShare('one'), newShare('two')], '2')).toBe(4)
  expect(completionsOf([{ ...newShare('one'), completions: '3' }, newShare('two')], '2')).toBe(5)
})
