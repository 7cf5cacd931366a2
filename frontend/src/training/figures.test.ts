import { figuresOf, mainFigure, parted } from 'src/training/figures'
import { alarmNames, alarmTitle, alarmTotal } from 'src/ui/alarms'
import { expect, test } from 'vitest'

test('an interval goes with its figure, and held-out parts come first', () => {
  const metrics = { 'train/loss': 0.4, 'test/accuracy': 0.7, 'test/accuracy_low': 0.6, 'test/accuracy_high': 0.8 }
  expect(figuresOf(metrics)).toEqual([
    { name: 'test/accuracy', value: 0.7, low: 0.6, high: 0.8 },
    { name: 'train/loss', value: 0.4, low: null, high: null },
  ])
})

test('a name that only ends like an interval is a figure of its own', () => {
  expect(figuresOf({ 'eval/score_low': 1 }).map(({ name }) => name)).toEqual(['eval/score_low'])
})

test('what a reader asks first is apart from the rest, and no card is without figures', () => {
  const names = (metrics: Record<string, number>) => {
    const { main, rest } = parted(figuresOf(metrics))
    return [main.map(({ name }) => name), rest.map(({ name }) => name)]
  }
  expect(names({ 'test/accuracy': 1, 'test/brier': 0.1 })).toEqual([['test/accuracy'], ['test/brier']])
  expect(names({ 'train/epoch': 2 })).toEqual([['train/epoch'], []])
})

test('a table shows accuracy before loss, and nothing where neither was measured', () => {
  expect(mainFigure({ 'train/loss': 1, 'eval/accuracy': 0.6 })?.name).toBe('eval/accuracy')
  expect(mainFigure({ 'eval/pairs': 10 })).toBeNull()
})

test('alarms are named in words, an unknown one by its code, and the commonest first', () => {
  expect(alarmTitle('length_growth')).toBe('Length growth')
  expect(alarmTitle('of_a_newer_server')).toBe('of a newer server')
  expect(alarmNames({ kl_budget: 1, run_stalled: 3 })).toBe('Run stalled ×3, KL budget')
  expect(alarmTotal({ kl_budget: 1, run_stalled: 3 })).toBe(4)
})
