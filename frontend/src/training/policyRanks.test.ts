import type { PolicyRanking, RankedPolicy } from 'src/api/schema'
import { isSplit, placeText, rankedRows } from 'src/training/policyRanks'
import { expect, test } from 'vitest'

const policy = (name: string, more: Partial<RankedPolicy> = {}): RankedPolicy => ({
  model: name,
  name,
  contests: 4,
  strength: 0,
  se: 0.1,
  low: -0.2,
  high: 0.2,
  rank: 1,
  rank_low: 1,
  rank_high: 2,
  elo: 1000,
  component: 0,
  ...more,
})

const ranking = (kind: PolicyRanking['kind'], policies: RankedPolicy[]): PolicyRanking => ({
  kind,
  verdicts: null,
  contests: 4,
  prompts: 2,
  policies,
  warnings: [],
})

test('a policy has one row whoever judged it, in the order of the first kind', () => {
  const rankings = [
    ranking('people', [policy('b'), policy('a')]),
    ranking('judge', [policy('a', { rank: 2 }), policy('c')]),
  ]
  const rows = rankedRows({ rankings }, ['people', 'reward', 'judge'])
  expect(rows.map(({ name }) => name)).toEqual(['b', 'a', 'c'])
  expect(rows[1]?.by.people?.rank).toBe(1)
  expect(rows[1]?.by.judge?.rank).toBe(2)
  expect(rows[2]?.by.people).toBeUndefined()
  expect(rankedRows({ rankings }, ['judge']).map(({ name }) => name)).toEqual(['a', 'c'])
})

test('two sources without a model are two rows', () => {
  const rankings = [ranking('people', [policy('x', { model: null }), policy('y', { model: null })])]
  expect(rankedRows({ rankings }, ['people'])).toHaveLength(2)
})

test('overlapping intervals share a range of ranks', () => {
  expect(placeText(policy('a'))).toBe('1–2')
  expect(placeText(policy('a', { rank_high: 1 }))).toBe('1')
  expect(placeText(policy('a', { rank: null }))).toBe('–')
  expect(placeText(undefined)).toBe('–')
})

test('policies of two components never met', () => {
  expect(isSplit([policy('a'), policy('b')])).toBe(false)
  expect(isSplit([policy('a'), policy('b', { component: 1 })])).toBe(true)
})
