import { ruleFacts } from 'src/training/labelRule'
import { expect, test } from 'vitest'

const policy = {
  aggregator: 'majority/3',
  dispute_below: 0.6,
  tie_rule: 'drop',
  min_votes: 2,
  min_confidence: 0,
  guideline_versions: [1, 3],
  excluded_annotators: [],
  margin: false,
}
const split = {
  rule: 'prompt-group/blake2b-64',
  seed: 'winnow',
  shares: { train: 0.8, validation: 0.1, test: 0.1 },
}

test('a rule is said in words, value by value', () => {
  expect(ruleFacts({ label_policy: policy, split })).toEqual([
    ['Labels by', 'Majority, version 3'],
    ['Minimum votes', '2'],
    ['Ties', 'Drop'],
    ['Disputed where fewer agree than', '60 %'],
    ['Share of the leading answer, at least', 'any'],
    ['Guideline versions', 'v1, v3'],
    ['People left out', 'none'],
    ['Strength of preference in the lines', 'No'],
    ['Split', 'by prompt group, with a hash'],
    ['Seed of the split', 'winnow'],
    ['Shares', 'Train 80 %, Validation 10 %, Test 10 %'],
  ])
})

test('what a model of the annotators found is said too', () => {
  const fit = {
    fitted_on: 'train',
    prior: {
      confusion: [
        [3, 1, 1],
        [1, 3, 1],
        [1, 1, 3],
      ],
      classes: 1,
    },
    class_shares: [0.5, 0.1, 0.4],
    annotators: 4,
    votes: 1200,
    converged: true,
  }
  const facts = ruleFacts({ label_policy: { ...policy, aggregator: 'dawid_skene/1', fit }, split: {} })
  expect(facts.slice(0, 1)).toEqual([['Labels by', 'Dawid–Skene model, version 1']])
  expect(facts.slice(8)).toEqual([
    ['Annotators modelled on', 'Train'],
    ['People in that model', '4'],
    ['Votes in that model', '1,200'],
    ['Answers as it estimates them', 'A is better 50 %, Tie 10 %, B is better 40 %'],
    ['Votes that it assumes of everybody', '3 right and 1 of each wrong answer; 1 of each answer overall'],
    ['It converged', 'Yes'],
  ])
})

test('what a newer server adds is shown as it is', () => {
  expect(ruleFacts({ label_policy: { tie_rule: 'thirds', mood: { good: 1 } }, split: {} })).toEqual([
    ['Ties', 'thirds'],
    ['mood', '{"good":1}'],
  ])
})
