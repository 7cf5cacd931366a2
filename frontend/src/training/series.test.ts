import { flatten, nest, typed } from 'src/training/config'
import { charts, collect } from 'src/training/series'
import { align, smooth } from 'src/ui/charts/curves'
import { expect, test } from 'vitest'

const row = (seq: number, step: number, values: Record<string, number>) => ({ seq, step, time: seq, values })

test('a second attempt replaces the steps that it repeats', () => {
  const series = collect([
    row(1, 1, { 'train/loss': 0.7 }),
    row(2, 2, { 'train/loss': 0.6 }),
    row(3, 2, { 'train/loss': 0.61 }),
    row(4, 3, { 'train/loss': 0.5 }),
  ])
  expect(series.get('train/loss')).toMatchObject({ xs: [1, 2, 3], ys: [0.7, 0.61, 0.5] })
})

test('one chart a quantity, the most telling first, test figures left out', () => {
  const series = collect([
    row(1, 1, {
      'optim/learning_rate': 1,
      'rollout/kl': 0,
      'eval/loss': 0.7,
      'train/loss': 0.69,
      'train/accuracy': 0.5,
      'test/accuracy': 0.6,
    }),
  ])
  const result = charts(series, [{ name: 'train/loss', unit: 'nats', help: '', better: 'lower' }])
  expect(result.map(({ title }) => title)).toEqual(['Loss', 'Accuracy', 'KL', 'Learning rate'])
  expect(result[0]).toMatchObject({
    unit: 'nats',
    curves: [
      { name: 'train/loss', sparse: false },
      { name: 'eval/loss', sparse: true },
    ],
  })
})

test('the interval of the accuracy is a band, not two more curves', () => {
  const series = collect([
    row(1, 10, { 'eval/accuracy': 0.6, 'eval/accuracy_low': 0.5, 'eval/accuracy_high': 0.7, 'eval/pairs': 40 }),
  ])
  expect(charts(series, [])).toMatchObject([
    { title: 'Accuracy', curves: [{ name: 'eval/accuracy' }], band: { low: [0.5], high: [0.7] } },
  ])
})

test('smoothing keeps a constant, and the first point', () => {
  const steady = Array(20).fill(2)
  expect(smooth(steady, 0.9)).toEqual(steady.map((value) => expect.closeTo(value, 12)))
  expect(smooth([5, ...steady], 0.5)[0]).toBe(5)
  expect(smooth([1, 2], 0.9)).toEqual([1, 2])
})

test('curves with different steps share one axis', () => {
  expect(
    align([
      { xs: [1, 2, 3], ys: [1, 2, 3] },
      { xs: [2, 4], ys: [9, 8] },
    ]),
  ).toEqual([
    [1, 2, 3, 4],
    [1, 2, 3, null],
    [null, 9, null, 8],
  ])
})

test('a config goes to paths and back', () => {
  const config = { method: 'dpo', optim: { learning_rate: 5e-5, betas: [0.9, 0.999] }, dpo: { beta: 0.1 } }
  expect(nest(flatten(config))).toEqual(config)
})

test('text that is no number is sent as it is, so that the server names the fault', () => {
  expect([typed('number', ' 5e-5 '), typed('number', 'fast'), typed('boolean', 'true'), typed('text', '')]).toEqual([
    5e-5,
    'fast',
    true,
    null,
  ])
})
