import type { Overview } from 'src/api/schema'
import { nextStep } from 'src/setup/nextStep'
import { expect, test } from 'vitest'

const NONE: Overview['counts'] = {
  prompts: 0,
  completions: 0,
  comparisons: 0,
  votes: 0,
  surplus: 0,
  open: 0,
  settled: 0,
  disputed: 0,
  adjudicated: 0,
  withdrawn: 0,
  leased: 0,
  wanted: 0,
}
const person = { name: 'Olga' } as Overview['people'][number]
type Read = Parameters<typeof nextStep>[0]
const read = (counts: Partial<Overview['counts']>, more: Partial<Read> = {}) =>
  nextStep(
    { counts: { ...NONE, ...counts }, people: [person, person], round: null, snapshot: null, jobs: [], ...more },
    'p',
  )
const frozen = (total: number, jobs: number) =>
  ({ id: 's', number: 1, jobs, counts: { total } }) as NonNullable<Read['snapshot']>
const job = (status: string, method = 'dpo') => ({ id: 'j', method, status, title: 'DPO' }) as Read['jobs'][number]

test('a project is led from nothing to its next round', () => {
  expect(read({}).name).toBe('prompts')
  expect(read({ prompts: 12 })).toMatchObject({ name: 'completions', href: '/setup?step=completions' })
  expect(read({ prompts: 12, completions: 24 })).toMatchObject({ name: 'completions', href: '/pairing' })
  const sampled = { prompts: 12, completions: 24, comparisons: 12, open: 12, wanted: 24 }
  expect(read(sampled, { people: [person] }).name).toBe('people')
  expect(read(sampled)).toMatchObject({ name: 'votes', href: '~/p/p/task' })
  expect(read({ ...sampled, open: 3, disputed: 2 }).name).toBe('adjudicate')
  const settled = { prompts: 12, comparisons: 12, settled: 10, adjudicated: 2 }
  expect(read(settled)).toMatchObject({ name: 'freeze', text: 'All 12 comparisons are settled.' })
  expect(read(settled, { snapshot: frozen(12, 0) }).name).toBe('train')
  expect(read(settled, { snapshot: frozen(8, 1) })).toMatchObject({ name: 'freeze' })
  expect(read(settled, { snapshot: frozen(12, 1), jobs: [job('running')] }).name).toBe('watch')
  expect(read(settled, { snapshot: frozen(12, 1), jobs: [job('succeeded')] }).name).toBe('round')
  expect(read(settled, { snapshot: frozen(12, 1), jobs: [job('running', 'convert')] }).name).toBe('round')
})

test('a round that is being sampled is waited for', () => {
  const round = { number: 2, status: 'running', completions_done: 5, completions_wanted: 24 } as NonNullable<
    Read['round']
  >
  expect(read({ prompts: 12 }, { round })).toMatchObject({ name: 'sampling', href: '/rounds' })
})
